//! `status.conditions` of any object.
use super::cells::{age, panel};
use crate::view_model::{list, text, time};
use leptos::prelude::*;
use serde_json::Value;

pub fn conditions(object: &Value) -> AnyView {
    let conditions = list(object, &["status", "conditions"]);
    if conditions.is_empty() {
        return ().into_any();
    }
    let row = |condition: &Value| {
        let field = |name: &str| text(condition, &[name]).to_owned();
        let reason = match (field("reason"), field("message")) {
            (reason, message) if message.is_empty() => reason,
            (reason, message) if reason.is_empty() => message,
            (reason, message) => format!("{reason}: {message}"),
        };
        view! {
            <tr>
                <th scope="row">{field("type")}</th>
                <td>{field("status")}</td>
                <td class="wrap">{reason}</td>
                <td class="r2">{age(time::parse(&field("lastTransitionTime")))}</td>
            </tr>
        }
    };
    let table = view! {
        <table class="small stacks">
            <thead><tr><th scope="col">"Condition"</th><th scope="col">"Holds"</th><th scope="col">"Why"</th><th scope="col" class="r2">"Since"</th></tr></thead>
            <tbody>{conditions.iter().map(row).collect_view()}</tbody>
        </table>
    };
    panel("Conditions", table.into_any())
}
