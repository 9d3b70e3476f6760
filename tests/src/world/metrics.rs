//! Reading what programs count.

/// What `/metrics` showed at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the text that Prometheus scrapes.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(Sample::parse).collect();
        Self { samples }
    }

    /// The sum of every sample of this name that has all these labels; 0 when there is none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(name, value)| sample.labels.iter().any(|(n, v)| n == name && v == value))
        };
        // Not `sum`, whose sum of nothing is -0.
        self.samples.iter().filter(fits).map(|sample| sample.value).fold(0.0, |sum, value| sum + value)
    }

    /// Whether there is a sample of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }

    /// Every label value that ever stood beside this label name.
    pub fn label_values<'a>(&'a self, label: &'a str) -> impl Iterator<Item = &'a str> {
        let labels = self.samples.iter().flat_map(|sample| &sample.labels);
        labels.filter(move |(name, _)| name == label).map(|(_, value)| value.as_str())
    }
}

impl Sample {
    /// `name{label="value",other="value"} 1.5`
    fn parse(line: &str) -> Option<Self> {
        let (key, value) = line.trim().rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let (name, labels) = match key.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
            None => (key, Vec::new()),
        };
        Some(Self { name: name.to_owned(), labels, value })
    }
}

fn parse_labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name.trim_start_matches(',').to_owned(), value));
        text = &rest[end + 1..];
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_that_were_not_asked_for() {
        let metrics = Metrics::parse(
            "# TYPE a_total counter\n\
             a_total{kind=\"user\",outcome=\"applied\"} 2\n\
             a_total{kind=\"a \\\"b\\\", {c}\",outcome=\"applied\"} 3\n\
             a_total{kind=\"user\",outcome=\"dead\"} 4\n\
             b 1.5\n# EOF\n",
        );
        assert_eq!(metrics.value("a_total", &[("outcome", "applied")]).to_string(), "5");
        assert_eq!(metrics.value("a_total", &[("kind", "a \"b\", {c}")]).to_string(), "3");
        assert_eq!(metrics.value("b", &[]).to_string(), "1.5");
        assert_eq!(metrics.value("c", &[]).to_string(), "0");
        assert!(metrics.has("b") && !metrics.has("c"));
    }
}
