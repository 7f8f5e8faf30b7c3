//! Sets of completion indexes as Kubernetes writes them: `0,2-4,7`.
use std::collections::BTreeSet;
use std::fmt;

/// Ranges in order that neither touch nor overlap: a job of a million indexes costs what its gaps cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// What is not below `end` is left out: a job's completions may have been lowered.
    pub fn parse(text: &str, end: i64) -> Self {
        let ranges = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<i64>().ok()?.min(end - 1));
            (first <= last).then_some((first, last))
        });
        Self::of_ranges(ranges.collect())
    }

    fn of_ranges(mut ranges: Vec<(i64, i64)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut().filter(|(_, end)| first <= *end + 1) {
                Some((_, end)) => *end = last.max(*end),
                None => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn extend(&mut self, more: &BTreeSet<i64>) {
        let ranges = self.0.iter().copied().chain(more.iter().map(|index| (*index, *index)));
        *self = Self::of_ranges(ranges.collect());
    }

    pub fn contains(&self, index: i64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub fn len(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i64 {
        let overlap = |a: &(i64, i64), b: &(i64, i64)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().map(|a| other.0.iter().map(|b| overlap(a, b)).sum::<i64>()).sum()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_kubernetes_writes_them() {
        let rows = [
            ("", vec![], ""),
            ("", vec![3], "3"),
            ("0,2", vec![1], "0-2"),
            ("0-2,5", vec![4, 7], "0-2,4,5,7"),
            ("1,2,9-12", vec![0], "0-2,9"),
        ];
        for (text, more, expected) in rows {
            let mut indexes = Indexes::parse(text, 10);
            indexes.extend(&more.into_iter().collect());
            assert_eq!(indexes.to_string(), expected, "{text}");
            assert_eq!(Indexes::parse(expected, 10), indexes);
        }
        let some = Indexes::parse("0-3,7", 10);
        assert_eq!(
            (some.len(), some.contains(3), some.contains(4), some.contains(7)),
            (5, true, false, true)
        );
        assert_eq!(some.common(&Indexes::parse("2-8", 10)), 3);
    }
}
