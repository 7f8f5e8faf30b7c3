//! What a change changes, line by line.
use similar::{ChangeTag, TextDiff};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Same,
    Added,
    Removed,
    /// Stands for equal lines left out.
    Gap,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub mark: Mark,
    pub text: String,
}

/// Equal lines shown around a change.
const CONTEXT: usize = 3;

/// Empty where nothing changes.
pub fn lines(old: &str, new: &str) -> Vec<Line> {
    let diff = TextDiff::from_lines(old, new);
    let groups = diff.grouped_ops(CONTEXT);
    let mut out = Vec::new();
    for group in groups {
        if group.first().is_some_and(|op| op.old_range().start > 0) || !out.is_empty() {
            out.push(Line { mark: Mark::Gap, text: String::new() });
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let mark = match change.tag() {
                ChangeTag::Equal => Mark::Same,
                ChangeTag::Delete => Mark::Removed,
                ChangeTag::Insert => Mark::Added,
            };
            out.push(Line { mark, text: change.value().trim_end_matches('\n').to_owned() });
        }
    }
    out
}

/// Lines added and removed.
pub fn counts(lines: &[Line]) -> (usize, usize) {
    let count = |mark| lines.iter().filter(|line| line.mark == mark).count();
    (count(Mark::Added), count(Mark::Removed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_its_surroundings_only() {
        let old: String = (0..20).map(|n| format!("{n}\n")).collect();
        let new = old.replace("10\n", "ten\n");
        let lines = lines(&old, &new);
        assert_eq!(counts(&lines), (1, 1));
        assert_eq!(lines[0].mark, Mark::Gap);
        assert_eq!(lines.len(), 1 + 3 + 2 + 3);
        assert!(super::lines(&old, &old).is_empty());
    }
}
