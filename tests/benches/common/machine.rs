//! Looking at processes from outside: `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::float;

/// Clock ticks a second, on every Linux there is.
const TICKS: f64 = 100.0;

/// The most memory that a process ever had resident, in MiB.
pub(crate) fn peak_rss(pid: u32) -> anyhow::Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .context("no VmHWM in /proc/<pid>/status")?;
    Ok(float(kilobytes) / 1024.0)
}

/// What the reader of a figure should know of the machine.
pub(crate) fn describe() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_default();
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    })
}

/// CPU seconds that groups of processes have used, by name. A group is every process whose command line
/// holds a marker, with all its children.
pub(crate) struct Cpu(Vec<(&'static str, String)>);

/// A reading of [`Cpu`].
pub(crate) struct Reading {
    groups: Vec<(&'static str, f64)>,
    /// Of the whole machine.
    busy: f64,
    at: Instant,
}

impl Cpu {
    /// Groups by name and marker.
    pub(crate) fn new(groups: Vec<(&'static str, String)>) -> Self {
        Self(groups)
    }

    /// What they used so far, and we ourselves.
    pub(crate) fn read(&self) -> Reading {
        let processes = processes();
        let ourselves = std::process::id();
        let mut all: Vec<_> = self
            .0
            .iter()
            .map(|(name, marker)| {
                let belongs = |process: &Process| {
                    process.command.contains(marker.as_str())
                        || processes.get(&process.parent).is_some_and(|parent| {
                            parent.command.contains(marker.as_str()) && process.parent != ourselves
                        })
                };
                let of_ours = |(pid, process): &(&u32, &Process)| **pid != ourselves && belongs(process);
                let ticks: u64 = processes.iter().filter(of_ours).map(|(_, process)| process.ticks).sum();
                (*name, float(ticks) / TICKS)
            })
            .collect();
        all.push(("bench", processes.get(&ourselves).map_or(0.0, |process| float(process.ticks) / TICKS)));
        Reading { groups: all, busy: busy(), at: Instant::now() }
    }
}

impl Reading {
    /// Microseconds for each of `events` since an earlier reading, as a sentence.
    pub(crate) fn since(&self, earlier: &Self, events: usize) -> String {
        let used: Vec<(&str, f64)> = self
            .groups
            .iter()
            .zip(&earlier.groups)
            .map(|((name, now), (_, before))| (*name, (now - before).max(0.0)))
            .collect();
        let parts: Vec<String> =
            used.iter().map(|(name, used)| format!("{name} {:.0}", used * 1e6 / float(events))).collect();
        let ours: f64 = used.iter().map(|(_, used)| used).sum();
        let others = (self.busy - earlier.busy - ours).max(0.0) / (self.at - earlier.at).as_secs_f64();
        format!("CPU in µs an event: {}; others on this machine used {others:.1} cores", parts.join(", "))
    }
}

/// CPU seconds that the whole machine has used.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let columns = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal.
    let ticks: u64 = columns
        .take(8)
        .enumerate()
        .filter(|(column, _)| !(3..=4).contains(column))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    float(ticks) / TICKS
}

struct Process {
    parent: u32,
    ticks: u64,
    command: String,
}

fn processes() -> HashMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name may hold spaces; what follows its closing parenthesis does not.
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
            // User and system time, of itself and of children that ended.
            let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            Some((pid, Process { parent: fields.get(1)?.parse().ok()?, ticks, command }))
        })
        .collect()
}
