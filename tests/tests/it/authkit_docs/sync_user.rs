use std::time::Duration;

use reqwest::{Client, StatusCode, Url};

/// Asks for a user to be synced now. Whether its rows can be read; whatever is down, that is known soon after
/// `wait`.
pub async fn sync_user(client: &Client, ingest: &Url, token: &str, user: &str, wait: Duration) -> bool {
    let mut url = ingest.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["sync", "user", user]);
    }
    url.query_pairs_mut().append_pair("wait", &format!("{}ms", wait.as_millis()));
    let request = client.post(url).bearer_auth(token).timeout(wait + Duration::from_millis(500));
    matches!(request.send().await, Ok(response) if response.status() == StatusCode::OK)
}
