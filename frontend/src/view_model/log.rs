//! Log lines as safe HTML, and the window of them that is kept.
use std::collections::VecDeque;

/// Older lines are forgotten: a browser should not hold a day of logs.
pub const MAX_LINES: usize = 5000;

/// The newest lines.
#[derive(Default)]
pub struct Window {
    lines: VecDeque<String>,
}

impl Window {
    pub fn push(&mut self, line: String) {
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES {
            self.lines.pop_front();
        }
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    pub fn clear(&mut self) {
        self.lines.clear();
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(&without_escapes(line));
            text.push('\n');
        }
        text
    }
}

/// A terminal's colours mean nothing here.
fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.by_ref().find(|end| end.is_ascii_alphabetic());
                }
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

pub(super) fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
}

/// The line as one `div`, matches of `search` marked; `None` where `search` is not in it. ASCII case does not matter.
pub fn html(line: &str, search: &str, with_time: bool) -> Option<String> {
    let plain = without_escapes(line);
    let (time, body) = split_time(&plain);
    let found = matches(body, search);
    if !search.is_empty() && found.is_empty() {
        return None;
    }
    let mut out = String::from("<div class=\"line\">");
    if with_time && !time.is_empty() {
        out.push_str("<time>");
        push_escaped(&mut out, time.get(..23).unwrap_or(time).trim_end_matches('Z'));
        out.push_str("</time>");
    }
    let mut from = 0;
    for start in found {
        push_escaped(&mut out, &body[from..start]);
        from = start + search.len();
        out.push_str("<mark>");
        push_escaped(&mut out, &body[start..from]);
        out.push_str("</mark>");
    }
    push_escaped(&mut out, &body[from..]);
    out.push_str("</div>");
    Some(out)
}

/// The time that the server puts before each line when asked to.
fn split_time(line: &str) -> (&str, &str) {
    match line.split_once(' ') {
        Some((time, rest)) if super::time::parse(time).is_some() => (time, rest),
        _ => ("", line),
    }
}

fn matches(text: &str, search: &str) -> Vec<usize> {
    if search.is_empty() {
        return Vec::new();
    }
    let (text, search) = (text.to_ascii_lowercase(), search.to_ascii_lowercase());
    text.match_indices(&search).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_not_smuggle_markup_in() {
        assert_eq!(
            html("<b>&\"", "", false).as_deref(),
            Some("<div class=\"line\">&lt;b&gt;&amp;&quot;</div>")
        );
    }

    #[test]
    fn a_search_marks_what_it_finds_and_drops_other_lines() {
        assert_eq!(
            html("an Error is", "error", false).as_deref(),
            Some("<div class=\"line\">an <mark>Error</mark> is</div>")
        );
        assert_eq!(html("all good", "error", false), None);
    }

    #[test]
    fn the_servers_time_is_cut_off_unless_wanted() {
        let line = "2026-01-02T03:04:05.678901234Z hello";
        assert_eq!(html(line, "", false).as_deref(), Some("<div class=\"line\">hello</div>"));
        assert_eq!(
            html(line, "", true).as_deref(),
            Some("<div class=\"line\"><time>2026-01-02T03:04:05.678</time>hello</div>")
        );
    }

    #[test]
    fn terminal_colours_go_and_old_lines_are_forgotten() {
        assert_eq!(without_escapes("\u{1b}[31mred\u{1b}[0m\r"), "red");
        let mut window = Window::default();
        (0..MAX_LINES + 3).for_each(|n| window.push(n.to_string()));
        assert_eq!((window.lines().count(), window.lines().next()), (MAX_LINES, Some("3")));
    }
}
