//! A watch over a WebSocket. Over plain HTTP a browser opens six connections to one host and no more, so streamed
//! answers of two open tabs would starve every other request; WebSockets are not counted among the six.
use super::ApiError;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use web_sys::{AbortController, Event, MessageEvent, WebSocket};

enum Signal {
    Open,
    Text(String),
    Closed,
}

/// Dropping it closes the connection.
pub struct Socket {
    socket: WebSocket,
    signals: UnboundedReceiver<Signal>,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_other: [Closure<dyn FnMut(Event)>; 3],
}

impl Socket {
    /// `path` is absolute on this host; `abort` closes the connection from outside. Fails where the server doesn't speak WebSocket there; the browser doesn't tell
    /// why.
    pub async fn open(path: &str, abort: &AbortController) -> Result<Self, ApiError> {
        let location = web_sys::window().map(|window| window.location()).ok_or_else(ApiError::unreachable)?;
        let host = location.host().map_err(|_| ApiError::unreachable())?;
        let scheme =
            if location.protocol().is_ok_and(|protocol| protocol == "https:") { "wss" } else { "ws" };
        let socket =
            WebSocket::new(&format!("{scheme}://{host}{path}")).map_err(|_| ApiError::unreachable())?;
        let (sender, signals) = unbounded();
        let on_message = {
            let sender = sender.clone();
            Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
                if let Some(text) = event.data().as_string() {
                    let _ = sender.unbounded_send(Signal::Text(text));
                }
            })
        };
        let on_open = {
            let sender = sender.clone();
            Closure::<dyn FnMut(Event)>::new(move |_| drop(sender.unbounded_send(Signal::Open)))
        };
        let on_close = Closure::<dyn FnMut(Event)>::new(move |_| drop(sender.unbounded_send(Signal::Closed)));
        socket.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        socket.set_onopen(Some(on_open.as_ref().unchecked_ref()));
        socket.set_onclose(Some(on_close.as_ref().unchecked_ref()));
        let on_abort = {
            let socket = socket.clone();
            Closure::<dyn FnMut(Event)>::new(move |_| drop(socket.close()))
        };
        abort.signal().set_onabort(Some(on_abort.as_ref().unchecked_ref()));
        let mut opened =
            Self { socket, signals, _on_message: on_message, _on_other: [on_open, on_close, on_abort] };
        match opened.signals.next().await {
            Some(Signal::Open) => Ok(opened),
            _ => Err(ApiError::unreachable()),
        }
    }

    /// The next message; `None` when the connection ended.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            match self.signals.next().await? {
                Signal::Text(text) => return Some(text),
                Signal::Open => {}
                Signal::Closed => return None,
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.socket.set_onmessage(None);
        self.socket.set_onopen(None);
        self.socket.set_onclose(None);
        let _ = self.socket.close();
    }
}
