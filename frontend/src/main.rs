//! The dashboard: a console for a cluster, in the browser, over the same API as every other client.
mod api;
mod app;
mod components;
mod context;
mod live;
mod pages;
mod router;
mod session;
mod view_model;

fn main() {
    console_error_panic_hook::set_once();
    app::mount();
}
