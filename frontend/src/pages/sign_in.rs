//! Signing in: with a password, and where the cluster trusts an issuer, there.
use crate::components::controls::field;
use crate::components::icon::icon;
use crate::components::shell::theme_button;
use crate::session::{Methods, methods, sign_in};
use leptos::prelude::*;
use leptos::task::spawn_local;

pub fn page() -> AnyView {
    let username = RwSignal::new(String::new());
    let password = RwSignal::new(String::new());
    let shown = RwSignal::new(false);
    let problem = RwSignal::new(String::new());
    let pending = RwSignal::new(false);
    let offered = RwSignal::new(Methods::default());
    spawn_local(async move {
        // A password is what every server takes; whoever can't ask finds out when they try it.
        if let Ok(found) = methods().await {
            offered.try_set(found);
        }
    });
    let issuers = move || {
        offered.with(|offered| {
            let links = offered.issuers.iter().map(|issuer| {
                view! {
                    // A plain link: the browser itself goes there and comes back.
                    <a class="button wide" href=issuer.start.clone() rel="external" data-testid="login-issuer">
                        <span>{format!("Sign in at {}", issuer.host())}</span>
                    </a>
                }
            });
            let links: Vec<_> = links.collect();
            (!links.is_empty()).then(|| view! { {links} <p class="sign-in-or quiet small">"or with a password"</p> })
        })
    };
    let trouble = move || {
        let trouble = offered.with(|offered| offered.trouble.clone());
        (!trouble.is_empty()).then(
            || view! { <p class="sign-in-trouble" role="alert" data-testid="login-trouble">{trouble}</p> },
        )
    };
    let submit = move |event: leptos::ev::SubmitEvent| {
        event.prevent_default();
        if pending.get_untracked() {
            return;
        }
        pending.set(true);
        problem.set(String::new());
        spawn_local(async move {
            let result = sign_in(username.get_untracked(), password.get_untracked()).await;
            pending.try_set(false);
            if let Err(error) = result {
                problem.try_set(error.message);
            }
        });
    };
    let kind = move || if shown.get() { "text" } else { "password" };
    let secret = view! {
        <input class="input" type=kind name="password" autocomplete="current-password" required data-testid="login-password"
            prop:value=move || password.get() on:input=move |event| password.set(event_target_value(&event))/>
    };
    view! {
        <main class="sign-in">
            <div class="sign-in-theme">{theme_button()}</div>
            <form class="sign-in-card" on:submit=submit>
                <div class="sign-in-brand">{icon("wheel")}</div>
                <h1>"Pilothouse"</h1>
                <p class="quiet">"Sign in to steer this cluster."</p>
                {trouble}
                {issuers}
                {field("User name", "", Signal::stored(String::new()), view! {
                    <input class="input" type="text" name="username" autocomplete="username" autocapitalize="off" spellcheck="false" required autofocus
                        data-testid="login-username" prop:value=move || username.get() on:input=move |event| username.set(event_target_value(&event))/>
                }.into_any())}
                {field("Password", "", problem.into(), secret.into_any())}
                <label class="toggle">
                    <input type="checkbox" prop:checked=move || shown.get() on:change=move |event| shown.set(event_target_checked(&event))/>
                    <span>"Show the password"</span>
                </label>
                <button class="button primary wide" type="submit" data-testid="login-submit" disabled=move || pending.get()
                    aria-busy=move || pending.get().to_string()><span>"Sign in"</span></button>
                <p class="quiet small">"First visit? The user is " <code>"admin"</code> "; the line that "<code>"pilothouse up"</code>
                    " prints names the file with the password."</p>
            </form>
        </main>
    }
    .into_any()
}
