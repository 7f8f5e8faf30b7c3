//! How things are, in one word and a tone. The word always stands beside the colour.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    Bad,
    Warn,
    /// On its way.
    Busy,
    Good,
    Muted,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Tone::Bad => "bad",
            Tone::Warn => "warn",
            Tone::Busy => "busy",
            Tone::Good => "good",
            Tone::Muted => "muted",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub tone: Tone,
    pub word: String,
    /// The whole story, where there is one.
    pub detail: String,
}

impl Status {
    pub fn new(tone: Tone, word: impl Into<String>) -> Self {
        Self { tone, word: word.into(), detail: String::new() }
    }

    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }
}
