//! The kubeconfig that the first run leaves for `kubectl`, Helm and every other client.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// `server` is an https URL.
pub fn render(server: &str, ca_pem: &str, token: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "pilothouse",
        "clusters": [{"name": "pilothouse", "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "contexts": [{"name": "pilothouse", "context": {"cluster": "pilothouse", "user": "admin"}}],
        "users": [{"name": "admin", "user": {"token": token}}],
    });
    serde_yaml_ng::to_string(&config).unwrap_or_default()
}
