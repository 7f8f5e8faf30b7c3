//! Icons, drawn for this dashboard: strokes on a 24-unit square.
use leptos::prelude::*;

fn path(name: &str) -> &'static str {
    match name {
        "wheel" => {
            r#"<circle cx="12" cy="12" r="6"/><circle cx="12" cy="12" r="1.8"/><path d="M12 2.500v7.700M12 13.800v7.700M2.500 12h7.700M13.800 12h7.700M5.300 5.300l5.400 5.400M13.300 13.300l5.400 5.400M18.700 5.300l-5.400 5.400M10.700 13.300l-5.400 5.400"/>"#
        }
        "overview" => r#"<path d="M4 13a8 8 0 1 1 16 0"/><path d="M12 13l4-4M3 18h18"/>"#,
        "deployments" => {
            r#"<path d="M12 3l8 4.500v9L12 21l-8-4.500v-9z"/><path d="M4 7.500l8 4.500 8-4.500M12 12v9"/>"#
        }
        "replicasets" => {
            r#"<rect x="4" y="8" width="12" height="12" rx="2"/><path d="M8 4h10a2 2 0 0 1 2 2v10"/>"#
        }
        "pods" => {
            r#"<rect x="4" y="4" width="7" height="7" rx="2"/><rect x="13" y="4" width="7" height="7" rx="2"/><rect x="4" y="13" width="7" height="7" rx="2"/><rect x="13" y="13" width="7" height="7" rx="2"/>"#
        }
        "services" => {
            r#"<circle cx="12" cy="5" r="2.500"/><circle cx="5" cy="19" r="2.500"/><circle cx="19" cy="19" r="2.500"/><path d="M12 7.500V13M12 13l-5.500 4M12 13l5.500 4"/>"#
        }
        "configmaps" => r#"<path d="M6 3h8l4 4v14H6z"/><path d="M14 3v4h4M9 12h6M9 16h6"/>"#,
        "secrets" => r#"<circle cx="8" cy="15" r="4"/><path d="M11 12l8-8M16 7l3 3M13.500 9.500l2 2"/>"#,
        "nodes" => {
            r#"<rect x="3" y="4" width="18" height="7" rx="2"/><rect x="3" y="13" width="18" height="7" rx="2"/><path d="M7 7.500h.01M7 16.500h.01M11 7.500h6M11 16.500h6"/>"#
        }
        "namespaces" => {
            r#"<path d="M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z"/>"#
        }
        "events" => r#"<path d="M6 17V11a6 6 0 1 1 12 0v6M4 17h16M10 20.500h4"/>"#,
        "more" => r#"<path d="M4 6h16M4 12h16M4 18h10"/>"#,
        "search" => r#"<circle cx="11" cy="11" r="6.500"/><path d="M16 16l4.500 4.500"/>"#,
        "plus" => r#"<path d="M12 5v14M5 12h14"/>"#,
        "trash" => r#"<path d="M4 7h16M9 7V4h6v3M6.500 7l1 13h9l1-13M10 11v5M14 11v5"/>"#,
        "eye" => {
            r#"<path d="M2.500 12S6 5.500 12 5.500 21.500 12 21.500 12 18 18.500 12 18.500 2.500 12 2.500 12z"/><circle cx="12" cy="12" r="2.500"/>"#
        }
        "copy" => r#"<rect x="8" y="8" width="12" height="12" rx="2"/><path d="M16 4H6a2 2 0 0 0-2 2v10"/>"#,
        "restart" => r#"<path d="M20 12a8 8 0 1 1-2.500-5.800M20 3v5h-5"/>"#,
        "pause" => r#"<path d="M8 5v14M16 5v14"/>"#,
        "play" => r#"<path d="M7 4.500l12 7.500-12 7.500z"/>"#,
        "undo" => r#"<path d="M9 14l-5-5 5-5M4 9h10a6 6 0 0 1 0 12h-3"/>"#,
        "edit" => {
            r#"<path d="M4 20l1-4.500L16 4.500l3.500 3.500L8.500 19z"/><path d="M13.500 7l3.500 3.500"/>"#
        }
        "download" => r#"<path d="M12 4v11M7 11l5 5 5-5M5 20h14"/>"#,
        "sun" => {
            r#"<circle cx="12" cy="12" r="4"/><path d="M12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M18.700 5.300l-1.400 1.400M6.700 17.300l-1.400 1.400"/>"#
        }
        "moon" => r#"<path d="M20 14.500A8.500 8.500 0 1 1 9.500 4a7 7 0 0 0 10.500 10.500z"/>"#,
        "menu" => r#"<path d="M4 7h16M4 12h16M4 17h16"/>"#,
        "close" => r#"<path d="M6 6l12 12M18 6L6 18"/>"#,
        "check" => r#"<path d="M5 12.500l4.500 4.500L19 7.500"/>"#,
        "alert" => r#"<path d="M12 4l9 16H3z"/><path d="M12 10v4.500M12 17.500h.01"/>"#,
        "out" => r#"<path d="M14 4h5a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1h-5M4 12h11M11 8l4 4-4 4"/>"#,
        "right" => r#"<path d="M9 5l7 7-7 7"/>"#,
        "log" => r#"<path d="M5 5h14v14H5z"/><path d="M8 10l2.500 2L8 14M13 15h3"/>"#,
        "file" => r#"<path d="M6 3h8l4 4v14H6z"/><path d="M14 3v4h4"/>"#,
        _ => "",
    }
}

pub fn icon(name: &'static str) -> AnyView {
    view! { <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" inner_html=path(name)></svg> }.into_any()
}
