//! An answer that comes piece by piece: watches and logs.
use super::ApiError;
use super::request::fetch;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, ReadableStreamDefaultReader};

/// Dropping it ends the request.
pub struct ByteStream {
    reader: ReadableStreamDefaultReader,
    abort: AbortController,
}

impl ByteStream {
    pub async fn open(path: &str, accept: &str, abort: AbortController) -> Result<Self, ApiError> {
        let response = fetch("GET", path, accept, None, Some(&abort.signal())).await?;
        let body = response.body().ok_or_else(ApiError::unreachable)?;
        let reader = body.get_reader().dyn_into().map_err(|_| ApiError::unreachable())?;
        Ok(Self { reader, abort })
    }

    /// The next piece; `None` when the server ended the answer.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        let piece = JsFuture::from(self.reader.read()).await.map_err(|_| ApiError::unreachable())?;
        let field =
            |name: &str| js_sys::Reflect::get(&piece, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED);
        if field("done").is_truthy() {
            return Ok(None);
        }
        let bytes: js_sys::Uint8Array = field("value").dyn_into().map_err(|_| ApiError::unreachable())?;
        Ok(Some(bytes.to_vec()))
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
