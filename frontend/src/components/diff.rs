//! A change, line by line.
use crate::view_model::diff::{Line, Mark, counts, lines};
use leptos::prelude::*;

pub fn diff(old: &str, new: &str) -> AnyView {
    let lines = lines(old, new);
    if lines.is_empty() {
        return view! { <p class="notice" data-testid="diff">"Nothing would change."</p> }.into_any();
    }
    let (added, removed) = counts(&lines);
    let line = |line: Line| {
        let (class, sign) = match line.mark {
            Mark::Same => ("", " "),
            Mark::Added => ("added", "+"),
            Mark::Removed => ("removed", "-"),
            Mark::Gap => ("gap", "⋯"),
        };
        view! { <div class=class><span class="sign">{sign}</span>{line.text}</div> }
    };
    view! {
        <figure class="diff" data-testid="diff">
            <figcaption><span class="plus">{format!("+{added}")}</span>" "<span class="minus">{format!("−{removed}")}</span>" lines"</figcaption>
            <pre tabindex="0">{lines.into_iter().map(line).collect_view()}</pre>
        </figure>
    }
    .into_any()
}
