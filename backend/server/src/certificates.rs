//! X.509 as far as the server asks: who a client certificate is, what a signing request wants, and which of the cluster's
//! signers takes it. After <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.
use pilothouse_api::jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
/// What is issued where nothing shorter is asked for, as kube-controller-manager does.
const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Clocks of others may be behind ours.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// The cluster's certificate authority. Its key stays with whoever implements this.
pub trait Authority: Send + Sync {
    /// Signs a PKCS#10 request in PEM, keeping its key, subject and names. Gives the certificate in PEM.
    fn sign(&self, request_pem: &str, profile: &Profile) -> anyhow::Result<String>;
}

/// What a certificate is for, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub is_client: bool,
    pub is_server: bool,
    pub key_encipherment: bool,
}

/// Whom a certificate or a request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Mail addresses and URIs, which no signer of the cluster's takes.
    pub other_names: usize,
}

impl Subject {
    fn named(name: &X509Name<'_>) -> Self {
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).unwrap_or_default()
        };
        Self {
            common_name: name.iter_common_name().next().map(text).unwrap_or_default(),
            organizations: name.iter_organization().map(text).collect(),
            ..Self::default()
        }
    }

    /// Of a certificate that TLS has verified.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self::named(certificate.subject()))
    }

    /// Of a request in PEM. Errors: it is none.
    pub fn of_request(pem: &[u8]) -> Result<Self, String> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
        let mut subject = Self::named(&request.certification_request_info.subject);
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => subject.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => subject.addresses.extend(address(bytes)),
                    _ => subject.other_names += 1,
                }
            }
        }
        Ok(subject)
    }

    fn has_names(&self) -> bool {
        self.other_names > 0 || !self.dns_names.is_empty() || !self.addresses.is_empty()
    }

    fn is_node(&self) -> Result<(), String> {
        if self.organizations != [NODES] {
            return Err("subject organization is not system:nodes".into());
        }
        match self.common_name.starts_with(NODE_PREFIX) {
            true => Ok(()),
            false => Err("subject common name does not begin with system:node:".into()),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(bytes).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let sixteen = || <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    four().or_else(sixteen)
}

/// Whether the signer is one of the cluster's own.
pub fn is_own(signer: &str) -> bool {
    matches!(signer, CLIENT | NODE_CLIENT | NODE_SERVING)
}

/// Whether a signer takes a request for `usages`, made by `username`. Errors: why not.
pub fn check(signer: &str, subject: &Subject, usages: &[&str], username: &str) -> Result<(), String> {
    let has = |usage: &str| usages.contains(&usage);
    let only = |allowed: &[&str]| match usages.iter().find(|usage| !allowed.contains(usage)) {
        Some(other) => Err(format!("usages did not match {allowed:?}: {other:?}")),
        None => Ok(()),
    };
    let base = ["key encipherment", "digital signature"];
    match signer {
        CLIENT => {
            only(&[base[0], base[1], "client auth"])?;
            match has("client auth") {
                true => Ok(()),
                false => Err("usages did not include \"client auth\"".into()),
            }
        }
        NODE_CLIENT => {
            subject.is_node()?;
            if subject.has_names() {
                return Err("DNS, IP, email and URI subject alternative names are not allowed".into());
            }
            only(&[base[0], base[1], "client auth"])?;
            match has(base[1]) && has("client auth") {
                true => Ok(()),
                false => Err("usages did not include \"digital signature\" and \"client auth\"".into()),
            }
        }
        NODE_SERVING => {
            subject.is_node()?;
            if subject.dns_names.is_empty() && subject.addresses.is_empty() {
                return Err("at least one DNS or IP subject alternative name is required".into());
            }
            if subject.other_names > 0 {
                return Err("email and URI subject alternative names are not allowed".into());
            }
            if subject.common_name != username {
                return Err("subject common name must be the requesting user's name".into());
            }
            only(&[base[0], base[1], "server auth"])?;
            match has(base[1]) && has("server auth") {
                true => Ok(()),
                false => Err("usages did not include \"digital signature\" and \"server auth\"".into()),
            }
        }
        _ => Err(format!("the cluster has no signer {signer:?}")),
    }
}

impl Profile {
    pub fn new(usages: &[&str], seconds: Option<i64>, now: Timestamp) -> Self {
        let lifetime = seconds.map_or(LIFETIME, SignedDuration::from_secs).min(LIFETIME);
        let has = |usage: &str| usages.contains(&usage);
        Self {
            not_before: now.checked_sub(BACKDATED).unwrap_or(now),
            not_after: now.checked_add(lifetime).unwrap_or(now),
            is_client: has("client auth"),
            is_server: has("server auth"),
            key_encipherment: has("key encipherment"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn request(common_name: &str, organization: &str, names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_tells_its_subject_and_names() {
        let subject =
            Subject::of_request(request("jane", "dev", &["a.example", "10.0.0.1"]).as_bytes()).unwrap();
        assert_eq!(
            (subject.common_name.as_str(), subject.organizations.as_slice()),
            ("jane", &["dev".to_owned()][..])
        );
        assert_eq!(subject.dns_names, ["a.example"]);
        assert_eq!(subject.addresses, [IpAddr::from([10, 0, 0, 1])]);
        assert!(Subject::of_request(b"nothing").is_err());
    }

    #[test]
    fn each_signer_takes_its_own_requests_only() {
        let of = |name: &str, organization: &str, names: &[&str]| {
            Subject::of_request(request(name, organization, names).as_bytes()).unwrap()
        };
        let (client, server) = (["digital signature", "client auth"], ["digital signature", "server auth"]);
        let (node, other) = ("system:node:n", "system:node:m");
        let rows = [
            (CLIENT, of("jane", "dev", &[]), &client[..], "", true),
            (CLIENT, of("jane", "dev", &[]), &server[..], "", false),
            (NODE_CLIENT, of(node, NODES, &[]), &client[..], "", true),
            (NODE_CLIENT, of(node, "dev", &[]), &client[..], "", false),
            (NODE_CLIENT, of("jane", NODES, &[]), &client[..], "", false),
            (NODE_CLIENT, of(node, NODES, &["a.example"]), &client[..], "", false),
            (NODE_SERVING, of(node, NODES, &["10.0.0.1"]), &server[..], node, true),
            (NODE_SERVING, of(node, NODES, &["10.0.0.1"]), &server[..], other, false),
            (NODE_SERVING, of(node, NODES, &[]), &server[..], node, false),
            (NODE_SERVING, of(node, NODES, &["10.0.0.1"]), &client[..], node, false),
            ("example.com/own", of("jane", "dev", &[]), &client[..], "", false),
        ];
        for (signer, subject, usages, username, taken) in rows {
            assert_eq!(check(signer, &subject, usages, username).is_ok(), taken, "{signer} {subject:?}");
        }
    }
}
