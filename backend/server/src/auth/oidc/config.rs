//! The file that names the issuers: apiserver.config.k8s.io `AuthenticationConfiguration`. After
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration>.
use super::expression::Expression;
use super::mapping::{Mapping, Rule, Source};
use anyhow::{Context, Result, bail, ensure};
use axum::http::Uri;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

const API_VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
/// As many as Kubernetes takes.
const MOST_ISSUERS: usize = 64;

/// Who is let in by tokens of others, and what nobody in particular may ask.
#[derive(Debug, Default)]
pub struct Configuration {
    pub issuers: Vec<IssuerConfig>,
    pub anonymous: Anonymous,
}

/// One issuer of tokens.
#[derive(Debug)]
pub struct IssuerConfig {
    /// What `iss` must be.
    pub url: String,
    /// Where its OpenID configuration is.
    pub discovery_url: String,
    /// PEM; None: the authorities that this machine trusts.
    pub authority: Option<String>,
    pub audiences: Vec<String>,
    pub mapping: Mapping,
}

/// Requests without a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    #[default]
    Everywhere,
    /// Only these paths.
    At(BTreeSet<String>),
    Nowhere,
}

impl Anonymous {
    pub fn admits(&self, path: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::At(paths) => paths.contains(path),
            Self::Nowhere => false,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<AnonymousFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousFile {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<PathCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathCondition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: IssuerFile,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<UserRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerFile {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    audiences: Vec<String>,
    audience_match_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClaimRule {
    claim: Option<String>,
    required_value: Option<String>,
    expression: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRule {
    expression: String,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    username: MappingFile,
    groups: Option<MappingFile>,
    uid: Option<MappingFile>,
    #[serde(default)]
    extra: Vec<ExtraFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingFile {
    claim: Option<String>,
    prefix: Option<String>,
    expression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtraFile {
    key: String,
    value_expression: String,
}

impl Configuration {
    /// From YAML or JSON. Errors name the field.
    pub fn parse(text: &str) -> Result<Self> {
        let file: Value =
            serde_yaml_ng::from_str(text).context("the authentication configuration is no YAML")?;
        let version = file["apiVersion"].as_str().unwrap_or_default();
        ensure!(
            file["kind"] == "AuthenticationConfiguration" && API_VERSIONS.contains(&version),
            "the authentication configuration must be an AuthenticationConfiguration of {}",
            API_VERSIONS[0]
        );
        let file = File::deserialize(&file).context("the authentication configuration cannot be read")?;
        ensure!(file.jwt.len() <= MOST_ISSUERS, "jwt: at most {MOST_ISSUERS} issuers");
        let mut seen = BTreeSet::new();
        let mut issuers = Vec::new();
        for (i, jwt) in file.jwt.into_iter().enumerate() {
            let issuer = jwt.read().with_context(|| format!("jwt[{i}]"))?;
            ensure!(
                seen.insert(issuer.url.clone()),
                "jwt[{i}].issuer.url: Duplicate value: {:?}",
                issuer.url
            );
            ensure!(
                issuer.url != super::super::tokens::ISSUER,
                "jwt[{i}].issuer.url: {:?} signs this cluster's own tokens",
                issuer.url
            );
            issuers.push(issuer);
        }
        let anonymous = match file.anonymous {
            None => Anonymous::Everywhere,
            Some(AnonymousFile { enabled: true, conditions }) if conditions.is_empty() => {
                Anonymous::Everywhere
            }
            Some(AnonymousFile { enabled: true, conditions }) => {
                Anonymous::At(conditions.into_iter().map(|condition| condition.path).collect())
            }
            Some(AnonymousFile { conditions, .. }) => {
                ensure!(conditions.is_empty(), "anonymous.conditions: enabled must be true");
                Anonymous::Nowhere
            }
        };
        Ok(Self { issuers, anonymous })
    }
}

impl Jwt {
    fn read(self) -> Result<IssuerConfig> {
        let issuer = self.issuer;
        check_url(&issuer.url).context("issuer.url")?;
        let discovery_url = match issuer.discovery_url {
            None => format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/')),
            Some(url) => {
                check_url(&url).context("issuer.discoveryURL")?;
                ensure!(url != issuer.url, "issuer.discoveryURL: must be different from URL");
                url
            }
        };
        if let Some(pem) = &issuer.certificate_authority {
            crate::remote::trusting(Some(pem.as_bytes()), None)
                .map_err(anyhow::Error::msg)
                .context("issuer.certificateAuthority")?;
        }
        ensure!(!issuer.audiences.is_empty(), "issuer.audiences: Required value: at least one is needed");
        ensure!(issuer.audiences.iter().all(|a| !a.is_empty()), "issuer.audiences: must not be empty");
        match issuer.audience_match_policy.as_deref() {
            Some("MatchAny") => {}
            None | Some("") => ensure!(
                issuer.audiences.len() == 1,
                "issuer.audienceMatchPolicy: Invalid value: must be MatchAny for multiple audiences"
            ),
            Some(other) => bail!("issuer.audienceMatchPolicy: Unsupported value: {other:?}: only MatchAny"),
        }
        let mapping = mapping(self.claim_mappings, self.claim_validation_rules, self.user_validation_rules)?;
        Ok(IssuerConfig {
            url: issuer.url,
            discovery_url,
            authority: issuer.certificate_authority,
            audiences: issuer.audiences,
            mapping,
        })
    }
}

fn check_url(url: &str) -> Result<()> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    ensure!(uri.scheme_str() == Some("https"), "Invalid value: {url:?}: URL scheme must be https");
    ensure!(uri.host().is_some_and(|host| !host.is_empty()), "Invalid value: {url:?}: URL must name a host");
    ensure!(!url.contains('@'), "Invalid value: URL must not contain a username or password");
    ensure!(uri.query().is_none(), "Invalid value: {url:?}: URL must not contain a query");
    ensure!(!url.contains('#'), "Invalid value: {url:?}: URL must not contain a fragment");
    Ok(())
}

fn mapping(mappings: Mappings, claims: Vec<ClaimRule>, users: Vec<UserRule>) -> Result<Mapping> {
    let rules: Vec<Rule> = claims
        .into_iter()
        .enumerate()
        .map(|(i, rule)| claim_rule(rule).with_context(|| format!("claimValidationRules[{i}]")))
        .collect::<Result<_>>()?;
    let users: Vec<Rule> = users
        .into_iter()
        .enumerate()
        .map(|(i, rule)| {
            let expression = Expression::on_user(&rule.expression);
            let expression = expression.with_context(|| format!("userValidationRules[{i}].expression"))?;
            Ok(Rule::Holds { expression, message: rule.message.unwrap_or_default() })
        })
        .collect::<Result<_>>()?;
    let username = source(mappings.username, true).context("claimMappings.username")?;
    let username =
        username.context("claimMappings.username: Required value: claim or expression is required")?;
    let groups = source(mappings.groups.unwrap_or_default(), true).context("claimMappings.groups")?;
    let uid = source(mappings.uid.unwrap_or_default(), false).context("claimMappings.uid")?;
    let mut extra: Vec<(String, Expression)> = Vec::new();
    for (i, file) in mappings.extra.into_iter().enumerate() {
        let at = || format!("claimMappings.extra[{i}]");
        check_extra_key(&file.key).with_context(at)?;
        ensure!(extra.iter().all(|(key, _)| *key != file.key), "{}.key: Duplicate value", at());
        let expression = Expression::on_claims(&file.value_expression).with_context(at)?;
        extra.push((file.key, expression));
    }
    let mapping = Mapping { username, groups, uid, extra, rules, users };
    // An address that its owner never proved to have may be anybody's.
    ensure!(
        !mapping.username_reads("claims.email") || mapping.any_reads("claims.email_verified"),
        "claimMappings.username.expression: claims.email_verified must be used in claimMappings.username.expression, \
         claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in \
         claimMappings.username.expression"
    );
    Ok(mapping)
}

fn source(file: MappingFile, has_prefix: bool) -> Result<Option<Source>> {
    match (file.claim, file.expression) {
        (Some(_), Some(_)) => bail!("claim and expression can't both be set"),
        (None, Some(text)) => {
            ensure!(file.prefix.is_none(), "prefix can't be set when expression is set");
            Ok(Some(Source::Expression(Expression::on_claims(&text).context("expression")?)))
        }
        (Some(claim), None) => {
            ensure!(!claim.is_empty(), "claim: Required value");
            let prefix = match has_prefix {
                true => file
                    .prefix
                    .context("prefix: Required value: it can be empty, to say that there is none")?,
                false => String::new(),
            };
            Ok(Some(Source::Claim { claim, prefix }))
        }
        (None, None) => {
            ensure!(file.prefix.is_none(), "prefix: claim is required when it is set");
            Ok(None)
        }
    }
}

fn claim_rule(rule: ClaimRule) -> Result<Rule> {
    match (rule.claim, rule.expression) {
        (Some(_), Some(_)) => bail!("claim and expression can't both be set"),
        (None, None) => bail!("Required value: claim or expression is required"),
        (Some(claim), None) => {
            ensure!(rule.message.is_none(), "message can't be set when claim is set");
            Ok(Rule::Requires { claim, value: rule.required_value.unwrap_or_default() })
        }
        (None, Some(text)) => {
            ensure!(rule.required_value.is_none(), "requiredValue can't be set when expression is set");
            let expression = Expression::on_claims(&text).context("expression")?;
            Ok(Rule::Holds { expression, message: rule.message.unwrap_or_default() })
        }
    }
}

/// A path below a domain, in lower case; the project's own domains are the project's.
fn check_extra_key(key: &str) -> Result<()> {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    ensure!(
        !domain.is_empty(),
        "key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"
    );
    ensure!(key.to_lowercase() == key, "key: Invalid value: {key:?}: must be lowercase");
    let reserved = |own: &str| domain == own || domain.ends_with(&format!(".{own}"));
    ensure!(
        !reserved("k8s.io") && !reserved("kubernetes.io"),
        "key: Invalid value: {key:?}: k8s.io and kubernetes.io are reserved"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(issuer: &str, rest: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{{issuer}}}\n{rest}"
        )
    }

    const ISSUER: &str = "url: 'https://id.example.com', audiences: [pilothouse]";
    const MAPPINGS: &str = "  claimMappings: {username: {claim: sub, prefix: 'oidc:'}}\n";

    #[test]
    fn what_is_wrong_is_named() {
        let read = |text: &str| Configuration::parse(text).map_err(|error| format!("{error:#}"));
        let good = read(&file(ISSUER, MAPPINGS)).unwrap();
        assert_eq!(good.issuers[0].discovery_url, "https://id.example.com/.well-known/openid-configuration");
        assert_eq!(good.anonymous, Anonymous::Everywhere);
        for (issuer, rest, told) in [
            (
                "url: 'http://id', audiences: [a]",
                MAPPINGS,
                "jwt[0]: issuer.url: Invalid value: \"http://id\": URL scheme must be https",
            ),
            ("url: 'https://id', audiences: []", MAPPINGS, "jwt[0]: issuer.audiences: Required value"),
            ("url: 'https://id', audiences: [a, b]", MAPPINGS, "must be MatchAny"),
            (ISSUER, "  claimMappings: {username: {}}\n", "claim or expression is required"),
            (
                ISSUER,
                "  claimMappings: {username: {claim: sub}}\n",
                "claimMappings.username: prefix: Required value",
            ),
            (
                ISSUER,
                "  claimMappings: {username: {expression: 'claims.'}}\n",
                "claimMappings.username: expression: ",
            ),
            (
                ISSUER,
                "  claimMappings: {username: {expression: 'claims.email'}}\n",
                "email_verified must be used",
            ),
            (
                ISSUER,
                "  claimMappings: {username: {claim: a, prefix: ''}, extra: [{key: k, valueExpression: 'claims.a'}]}\n",
                "domain-prefixed",
            ),
            (ISSUER, "  claimMapping: {}\n", "unknown field `claimMapping`"),
            (
                "url: 'https://id', audiences: [a], certificateAuthority: nonsense",
                MAPPINGS,
                "issuer.certificateAuthority: ",
            ),
        ] {
            let error = read(&file(issuer, rest)).unwrap_err();
            assert!(error.contains(told), "{told:?} in {error:?}");
        }
        assert!(read("kind: Other").is_err());
    }

    #[test]
    fn requests_without_a_credential_may_be_narrowed() {
        let of = |text: &str| {
            let head =
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: ";
            Configuration::parse(&format!("{head}{text}\n")).unwrap().anonymous
        };
        let healthy = of("{enabled: true, conditions: [{path: /livez}]}");
        assert!(healthy.admits("/livez") && !healthy.admits("/version"));
        assert!(!of("{enabled: false}").admits("/livez"));
        assert!(of("{enabled: true}").admits("/version"));
    }
}
