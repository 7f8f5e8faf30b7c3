//! What must stay free on a node, in the words of Kubernetes' `--eviction-hard` and its like.
use pilothouse_api::quantity::Quantity;
use std::collections::BTreeMap;
use std::fmt;

/// What is watched (<https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

impl Signal {
    pub const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The resource that is short, as events and statuses name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    pub fn condition(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "MemoryPressure",
            Self::PidAvailable => "PIDPressure",
            _ => "DiskPressure",
        }
    }

    pub fn is_disk(self) -> bool {
        self.condition() == "DiskPressure"
    }
}

/// An amount, or a part of all there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Quantity(Quantity),
    Percent(f64),
}

impl Amount {
    /// In the signal's unit.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(quantity) => u64::try_from(quantity.value()).unwrap_or(0),
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub least: Amount,
    /// A soft one holds only after so many seconds.
    pub grace_seconds: Option<i64>,
}

/// All that a node goes by when it runs short.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub thresholds: Vec<Threshold>,
    /// What an eviction frees at least.
    pub reclaim: BTreeMap<Signal, Amount>,
    /// How long a pod may take to end that is evicted for a soft threshold.
    pub max_grace_seconds: i64,
    /// How long a condition holds after its last cause was seen.
    pub transition_seconds: i64,
}

/// Kubernetes' hard thresholds.
pub const DEFAULT_HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";
pub const DEFAULT_TRANSITION_SECONDS: i64 = 300;

/// Why an option is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: {1}")]
pub struct BadOption(String, &'static str);

fn signal(text: &str) -> Result<Signal, BadOption> {
    let found = Signal::ALL.into_iter().find(|signal| signal.name() == text);
    found.ok_or_else(|| BadOption(text.into(), "is no eviction signal"))
}

fn amount(text: &str) -> Result<Amount, BadOption> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse::<f64>().ok().filter(|p| (0.0..100.0).contains(p));
        return percent
            .map(Amount::Percent)
            .ok_or_else(|| BadOption(text.into(), "is no percentage below 100"));
    }
    let quantity = Quantity::parse(text).filter(|q| !q.is_negative());
    quantity.map(Amount::Quantity).ok_or_else(|| BadOption(text.into(), "is no quantity"))
}

fn pairs(text: &str, by: char) -> impl Iterator<Item = Result<(Signal, &str), BadOption>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(move |part| {
        let (name, value) =
            part.split_once(by).ok_or_else(|| BadOption(part.into(), "names a signal and an amount"))?;
        Ok((signal(name.trim())?, value.trim()))
    })
}

/// Seconds of `90s`, `1m30s`, `5m`.
pub fn seconds(text: &str) -> Result<i64, BadOption> {
    let bad = || BadOption(text.into(), "is no duration");
    let (mut total, mut number) = (0_i64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        let amount: i64 = std::mem::take(&mut number).parse().map_err(|_| bad())?;
        total = amount.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
    }
    if number.is_empty() && !text.is_empty() { Ok(total) } else { Err(bad()) }
}

impl Rules {
    /// From the options `--eviction-hard`, `--eviction-soft`, `--eviction-soft-grace-period`, `--eviction-minimum-reclaim`.
    pub fn parse(hard: &str, soft: &str, graces: &str, reclaim: &str) -> Result<Self, BadOption> {
        let mut thresholds = Vec::new();
        for pair in pairs(hard, '<') {
            let (signal, least) = pair?;
            thresholds.push(Threshold { signal, least: amount(least)?, grace_seconds: None });
        }
        let graces: BTreeMap<Signal, &str> = pairs(graces, '=').collect::<Result<_, _>>()?;
        for pair in pairs(soft, '<') {
            let (signal, least) = pair?;
            let grace = graces.get(&signal);
            let grace = grace.ok_or_else(|| BadOption(signal.name().into(), "has no grace period"))?;
            thresholds.push(Threshold {
                signal,
                least: amount(least)?,
                grace_seconds: Some(seconds(grace)?),
            });
        }
        let mut least = BTreeMap::new();
        for pair in pairs(reclaim, '=') {
            let (signal, text) = pair?;
            least.insert(signal, amount(text)?);
        }
        Ok(Self { thresholds, reclaim: least, ..Self::none() })
    }

    fn none() -> Self {
        Self {
            thresholds: Vec::new(),
            reclaim: BTreeMap::new(),
            max_grace_seconds: 0,
            transition_seconds: DEFAULT_TRANSITION_SECONDS,
        }
    }

    /// What is kept from pods so that the node is not short when they use all they were promised.
    pub fn kept(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().filter(|t| t.signal == signal && t.grace_seconds.is_none());
        hard.map(|t| t.least.of(capacity)).max().unwrap_or(0)
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::parse(DEFAULT_HARD, "", "", "").unwrap_or_else(|_| Self::none())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantity(quantity) => quantity.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_kubernetes() {
        let rules = Rules::default();
        assert_eq!(rules.thresholds.len(), 5);
        assert_eq!(rules.kept(Signal::MemoryAvailable, 8 << 30), 100 << 20);
        assert_eq!(rules.kept(Signal::NodefsAvailable, 1000), 100);
        assert_eq!(rules.kept(Signal::PidAvailable, 1000), 0);
        let soft = Rules::parse("", "memory.available<10%", "memory.available=1m30s", "nodefs.available=1Gi")
            .unwrap();
        assert_eq!(soft.thresholds[0].grace_seconds, Some(90));
        assert_eq!(soft.reclaim[&Signal::NodefsAvailable].of(0), 1 << 30);
        let bad = [
            ("cpu.available<1", "", "\"cpu.available\": is no eviction signal"),
            ("memory.available<x", "", "\"x\": is no quantity"),
            ("nodefs.available<120%", "", "\"120%\": is no percentage below 100"),
            ("memory.available", "", "\"memory.available\": names a signal and an amount"),
            ("", "memory.available<1Gi", "\"memory.available\": has no grace period"),
        ];
        for (hard, soft, why) in bad {
            assert_eq!(Rules::parse(hard, soft, "", "").unwrap_err().to_string(), why);
        }
        assert!(seconds("5").is_err() && seconds("m").is_err() && seconds("").is_err());
    }
}
