//! A real browser: Chromium from the system's packages, without a window, driven over `WebDriver`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::guardian::Farewell;
use super::process::{self, Process, Spec};
use super::{Place, find};

/// Starting takes a second or two on a quiet machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What `WebDriver` calls an element in its answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window. Dropped, the browser ends.
#[derive(Debug)]
pub struct Browser {
    http: reqwest::Client,
    port: u16,
    session: String,
    // Dropped in this order: the driver before its place.
    _driver: Process,
    _place: Place,
}

impl Browser {
    /// Starts it.
    pub async fn start() -> anyhow::Result<Self> {
        let installed = find::browser()?;
        let place = Place::new("browser")?;
        let log = place.path().join("chromedriver.log");
        let driver = Process::start(&Spec {
            name: "chromedriver".to_owned(),
            program: installed.driver,
            args: vec!["--port=0".into()],
            env: Vec::new(),
            directory: place.path().to_owned(),
            output: None,
            log: log.clone(),
            user: None,
            farewell: Farewell::Kill,
        })?;
        let started = Instant::now();
        let port = loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(port) = port(&said) {
                break port;
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "chromedriver does not say where it listens; its log ends with\n{}",
                    process::tail(&log)
                );
            }
            tokio::time::sleep(process::LOOK).await;
        };
        let http = reqwest::Client::builder().no_proxy().build().context("failed to build a client")?;
        let profile = place.room("profile")?;
        // Nothing in the tests is foreign, and as root Chromium has no sandbox.
        let args = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--no-proxy-server".to_owned(),
            "--window-size=1100,900".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": installed.chromium, "args": args},
        }}});
        let mut browser = Self { http, port, session: String::new(), _driver: driver, _place: place };
        let session = browser.command("", &wanted).await.context("Chromium did not start")?;
        session["sessionId"].as_str().context("no session")?.clone_into(&mut browser.session);
        Ok(browser)
    }

    /// Opens an address, and waits until it is loaded.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.command("/url", &json!({"url": url})).await.map(drop)
    }

    /// Loads the page again.
    pub async fn reload(&self) -> anyhow::Result<()> {
        self.command("/refresh", &json!({})).await.map(drop)
    }

    /// Clicks the first element that fits, and waits for the page that this may load.
    pub async fn click(&self, css: &str) -> anyhow::Result<()> {
        let element = self.element(css).await?;
        self.command(&format!("/element/{element}/click"), &json!({})).await.map(drop)
    }

    /// Types into the first element that fits.
    pub async fn type_into(&self, css: &str, text: &str) -> anyhow::Result<()> {
        let element = self.element(css).await?;
        self.command(&format!("/element/{element}/value"), &json!({"text": text})).await.map(drop)
    }

    /// What a person reads on the page.
    pub async fn text(&self) -> anyhow::Result<String> {
        let text = self.script("return document.body.innerText").await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Runs a script of ours in the page.
    pub async fn script(&self, script: &str) -> anyhow::Result<Value> {
        self.command("/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Lets pages run no scripts of their own.
    pub async fn without_scripts(&self) -> anyhow::Result<()> {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": true})).await
    }

    /// Makes the window as wide as that of a phone.
    pub async fn as_a_phone(&self) -> anyhow::Result<()> {
        let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", &phone).await
    }

    /// Shows pages as to somebody who wants them dark.
    pub async fn in_the_dark(&self) -> anyhow::Result<()> {
        let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
        self.devtools("Emulation.setEmulatedMedia", &dark).await
    }

    /// A picture of the page, as base64 of a PNG.
    pub async fn picture(&self) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{}/session/{}/screenshot", self.port, self.session);
        let answer: Value = self.http.get(url).send().await?.json().await?;
        answer["value"].as_str().map(str::to_owned).context("no picture")
    }

    async fn devtools(&self, command: &str, params: &Value) -> anyhow::Result<()> {
        self.command("/goog/cdp/execute", &json!({"cmd": command, "params": params})).await.map(drop)
    }

    async fn element(&self, css: &str) -> anyhow::Result<String> {
        let found = self.command("/element", &json!({"using": "css selector", "value": css})).await?;
        found[ELEMENT].as_str().map(str::to_owned).context("no element")
    }

    async fn command(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let session = if self.session.is_empty() { String::new() } else { format!("/{}", self.session) };
        let url = format!("http://127.0.0.1:{}/session{session}{path}", self.port);
        let mut answer: Value = self.http.post(url).json(body).timeout(PATIENCE).send().await?.json().await?;
        let value = answer["value"].take();
        if let Some(error) = value["error"].as_str() {
            let message = value["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
            bail!("{error} at {path} {body}: {message}");
        }
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser; killed, it would leave it behind.
        let goodbye = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(
                stream,
                "DELETE /session/{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
                self.session
            )?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        };
        let _ = goodbye();
    }
}

/// `ChromeDriver was started successfully on port 40123.`
fn port(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once("started successfully on port ")?;
    rest.split_once('.')?.0.parse().ok()
}
