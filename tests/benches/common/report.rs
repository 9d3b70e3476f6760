//! The table at the end, and a line of JSON for machines.

use serde_json::{Value, json};

use super::machine;

/// What a figure is measured by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judge {
    /// Nobody: it is a roof, or for information.
    Nothing,
    /// Its ratio to the roof: at least this; and the goal.
    Ratio(f64, f64),
    /// Itself: at most this; and the goal.
    AtMost(f64, f64),
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    roof: Option<f64>,
    ratio: Option<f64>,
    judge: Judge,
    note: String,
}

impl Figure {
    /// A figure for itself.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let name = name.into();
        Self { name, value, unit, roof: None, ratio: None, judge: Judge::Nothing, note: String::new() }
    }

    /// Compared with a roof; the ratio is given, because it is the median of the rounds' ratios.
    pub(crate) fn against(mut self, roof: f64, ratio: f64) -> Self {
        (self.roof, self.ratio) = (Some(roof), Some(ratio));
        self
    }

    /// Judged.
    pub(crate) fn judged(mut self, judge: Judge) -> Self {
        self.judge = judge;
        self
    }

    /// With a remark.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn floor(&self) -> Option<(f64, f64)> {
        match self.judge {
            Judge::Nothing => None,
            Judge::Ratio(floor, goal) | Judge::AtMost(floor, goal) => Some((floor, goal)),
        }
    }

    fn verdict(&self) -> &'static str {
        let (reached, floor) = match self.judge {
            Judge::Nothing => return "",
            Judge::Ratio(floor, goal) => {
                let ratio = self.ratio.unwrap_or(0.0);
                (ratio >= goal, ratio >= floor)
            }
            Judge::AtMost(floor, goal) => (self.value <= goal, self.value <= floor),
        };
        match (reached, floor) {
            (true, _) => "goal",
            (false, true) => "above the floor",
            (false, false) => "BELOW THE FLOOR",
        }
    }

    fn json(&self) -> Value {
        json!({
            "figure": self.name,
            "value": self.value,
            "unit": self.unit,
            "roof": self.roof,
            "ratio": self.ratio,
            "floor": self.floor().map(|(floor, _)| floor),
            "goal": self.floor().map(|(_, goal)| goal),
            "verdict": self.verdict(),
            "note": self.note,
        })
    }

    fn cells(&self) -> [String; 7] {
        let (floor, goal) = self.floor().map_or_else(Default::default, |(floor, goal)| {
            let sign = if matches!(self.judge, Judge::Ratio(..)) { "≥" } else { "≤" };
            (format!("{sign} {floor}"), format!("{sign} {goal}"))
        });
        [
            self.name.clone(),
            format!("{} {}", number(self.value), self.unit),
            self.roof.map(number).unwrap_or_default(),
            self.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            floor,
            goal,
            self.verdict().to_owned(),
        ]
    }
}

/// 45,123 or 12.3 or 0.412.
fn number(value: f64) -> String {
    if value < 1.0 {
        return format!("{value:.3}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// All figures of a run.
pub(crate) struct Report {
    bench: &'static str,
    machine: Value,
    figures: Vec<Figure>,
}

impl Report {
    /// An empty one; says what runs where.
    pub(crate) fn new(bench: &'static str) -> Self {
        let machine = machine::describe();
        say(&format!("{bench}: measuring on {machine}"));
        Self { bench, machine, figures: Vec::new() }
    }

    /// Adds a figure, and shows it right away.
    pub(crate) fn add(&mut self, figure: Figure) {
        let cells = figure.cells();
        let note = if figure.note.is_empty() { String::new() } else { format!("   ({})", figure.note) };
        say(&format!("  {}: {}{note}", cells[0], cells[1]));
        self.figures.push(figure);
    }

    /// The table, then one line of JSON.
    pub(crate) fn print(&self) {
        let head = ["figure", "value", "roof", "ratio", "floor", "goal", "verdict"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.figures.iter().map(Figure::cells)).collect();
        let widths: Vec<usize> = (0..7)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        println!();
        for row in &rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    let pad = " ".repeat(width - cell.chars().count());
                    if (1..=5).contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
                })
                .collect();
            println!("{}", cells.join("  ").trim_end());
        }
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        println!("\n{}", json!({"bench": self.bench, "machine": self.machine, "figures": figures}));
    }
}

/// Progress, for the person who waits.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
