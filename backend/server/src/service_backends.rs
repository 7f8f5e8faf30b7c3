//! Who answers for a service: its ready endpoints, for requests that the server itself sends there.
use pilothouse_api::{Key, Reason, Status};
use pilothouse_store::Store;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The pod of the service's namespace behind the address, if it is one.
    pub pod: Option<String>,
    pub address: String,
    pub port: u16,
}

/// The ready endpoints of the service's port, which is named or numbered; empty is its first. Errors: NotFound without
/// the service, ServiceUnavailable without the port or without endpoints.
pub fn ready(store: &Store, namespace: &str, name: &str, port: &str) -> Result<Vec<Backend>, Status> {
    let service = store.get(&Key::new("services", namespace, name));
    let service = service.ok_or_else(|| Status::not_found("services", name))?.value();
    let wanted = |candidate: &&Value| match port {
        "" => true,
        text => {
            let number = candidate["port"].as_u64().map(|number| number.to_string());
            candidate["name"] == text || number.as_deref() == Some(text)
        }
    };
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let port = ports
        .iter()
        .find(wanted)
        .ok_or_else(|| unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let slices = store.list("endpointslices.discovery.k8s.io", Some(namespace)).objects;
    let mut found = Vec::new();
    for slice in slices.iter().map(|slice| slice.value()) {
        let of_service = slice["metadata"]["labels"]["kubernetes.io/service-name"] == name;
        let port_name = port["name"].as_str().unwrap_or_default();
        let numbers = slice["ports"].as_array().into_iter().flatten();
        let number = numbers
            .filter(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|p| p["port"].as_u64());
        let Some(port) = number.and_then(|n| u16::try_from(n).ok()).filter(|_| of_service) else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let Some(address) = endpoint["addresses"][0].as_str() else { continue };
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let pod = &endpoint["targetRef"];
            let pod = pod["name"].as_str().filter(|_| pod["kind"] == "Pod").map(str::to_owned);
            found.push(Backend { pod, address: address.to_owned(), port });
        }
    }
    match found.is_empty() {
        true => Err(unavailable(format!("no endpoints available for service {name:?}"))),
        false => Ok(found),
    }
}

fn unavailable(message: String) -> Status {
    Status::new(Reason::ServiceUnavailable, message)
}
