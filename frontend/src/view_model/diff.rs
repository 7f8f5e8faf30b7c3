//! What a change changes, line by line: a longest common subsequence, since a diff crate would be a tenth of the bundle.

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
/// Above this many pairs of lines the middle is shown as replaced whole: memory is four bytes a pair.
const MAX_PAIRS: usize = 4_000_000;

/// Empty where nothing changes.
pub fn lines(old: &str, new: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if old == new {
        return Vec::new();
    }
    let before = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old[before..].iter().rev().zip(new[before..].iter().rev());
    let after = rest.take_while(|(a, b)| a == b).count();
    let mut all: Vec<Line> = old[..before].iter().map(|text| line(Mark::Same, text)).collect();
    middle(&old[before..old.len() - after], &new[before..new.len() - after], &mut all);
    all.extend(old[old.len() - after..].iter().map(|text| line(Mark::Same, text)));
    without_distant(all)
}

fn line(mark: Mark, text: &str) -> Line {
    Line { mark, text: text.to_owned() }
}

fn middle(old: &[&str], new: &[&str], out: &mut Vec<Line>) {
    if old.len().saturating_mul(new.len()) > MAX_PAIRS {
        out.extend(old.iter().map(|text| line(Mark::Removed, text)));
        out.extend(new.iter().map(|text| line(Mark::Added, text)));
        return;
    }
    // common[i][j]: the longest common subsequence of old[i..] and new[j..].
    let width = new.len() + 1;
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = match old[i] == new[j] {
                true => common[(i + 1) * width + j + 1] + 1,
                false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push(line(Mark::Same, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len()
            && (j == new.len() || common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            out.push(line(Mark::Removed, old[i]));
            i += 1;
        } else {
            out.push(line(Mark::Added, new[j]));
            j += 1;
        }
    }
}

/// Equal lines far from any change become one gap.
fn without_distant(all: Vec<Line>) -> Vec<Line> {
    let mut near = vec![false; all.len()];
    for (index, _) in all.iter().enumerate().filter(|(_, line)| line.mark != Mark::Same) {
        let (from, to) = (index.saturating_sub(CONTEXT), (index + CONTEXT + 1).min(all.len()));
        near[from..to].fill(true);
    }
    let mut out: Vec<Line> = Vec::new();
    for (line, near) in all.into_iter().zip(near) {
        match near {
            true => out.push(line),
            false if out.last().is_some_and(|last| last.mark == Mark::Gap) => {}
            false => out.push(Line { mark: Mark::Gap, text: String::new() }),
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
        assert_eq!(lines.len(), 1 + 3 + 2 + 3 + 1);
        assert!(super::lines(&old, &old).is_empty());
    }

    #[test]
    fn the_marks_tell_how_to_get_from_the_old_to_the_new() {
        for (old, new) in [("a b c d", "b x d y"), ("", "a b"), ("a a a", "a"), ("a b c", "c b a"), ("x", "")]
        {
            let (old, new) = (old.replace(' ', "\n"), new.replace(' ', "\n"));
            let mut all = Vec::new();
            middle(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>(), &mut all);
            let side = |dropped: Mark| {
                all.iter().filter(|l| l.mark != dropped).map(|l| l.text.as_str()).collect::<Vec<_>>()
            };
            assert_eq!(side(Mark::Added), old.lines().collect::<Vec<_>>());
            assert_eq!(side(Mark::Removed), new.lines().collect::<Vec<_>>());
        }
    }
}
