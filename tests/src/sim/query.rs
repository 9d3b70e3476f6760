//! The query of a request.

use percent_encoding::percent_decode_str;

/// Names and values, decoded; and what the path says that the list is of.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    of: Option<String>,
}

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self { pairs, of: None }
    }

    /// The same, for the list of an object.
    pub(super) fn of(self, of: Option<&str>) -> Self {
        Self { of: of.map(str::to_owned), ..self }
    }

    /// The object whose list it is, if the path names one.
    pub(super) fn whose(&self) -> Option<&str> {
        self.of.as_deref()
    }

    /// The value of a parameter; none when it is absent or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The words of a parameter that is a comma list.
    pub(super) fn words(&self, name: &str) -> Option<Vec<String>> {
        self.get(name).map(|text| text.split(',').map(|word| word.trim().to_owned()).collect())
    }
}

/// Undoes percent encoding, and `+` for a space.
fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}
