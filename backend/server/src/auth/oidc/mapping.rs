//! Who a token's claims stand for: rules that must hold, and where name, groups, uid and extra come from. Pure.
use super::expression::Expression;
use crate::auth::AUTHENTICATED;
use crate::objects::Actor;
use serde_json::{Value, json};

/// How the claims of one issuer become a user.
#[derive(Debug)]
pub struct Mapping {
    pub username: Source,
    pub groups: Option<Source>,
    pub uid: Option<Source>,
    pub extra: Vec<(String, Expression)>,
    /// About the claims.
    pub rules: Vec<Rule>,
    /// About the user that comes of them.
    pub users: Vec<Rule>,
}

#[derive(Debug)]
pub enum Source {
    Claim { claim: String, prefix: String },
    Expression(Expression),
}

#[derive(Debug)]
pub enum Rule {
    Requires { claim: String, value: String },
    Holds { expression: Expression, message: String },
}

impl Rule {
    fn check(&self, variable: &str, about: &Value) -> Result<(), String> {
        match self {
            Self::Requires { claim, value } => match about[claim.as_str()].as_str() {
                Some(found) if found == value => Ok(()),
                Some(found) => Err(format!("claim {claim:?} is {found:?}, not {value:?}")),
                None => Err(format!("claim {claim:?} is missing or no string")),
            },
            Self::Holds { expression, message } => match expression.evaluate(variable, about)? {
                Value::Bool(true) => Ok(()),
                Value::Bool(false) if message.is_empty() => {
                    Err(format!("validation expression {:?} failed", expression.source()))
                }
                Value::Bool(false) => Err(message.clone()),
                _ => Err(format!("expression {:?} gives no bool", expression.source())),
            },
        }
    }
}

impl Mapping {
    pub fn username_reads(&self, text: &str) -> bool {
        matches!(&self.username, Source::Expression(expression) if expression.source().contains(text))
    }

    pub fn any_reads(&self, text: &str) -> bool {
        let rules = self.rules.iter().filter_map(|rule| match rule {
            Rule::Holds { expression, .. } => Some(expression),
            Rule::Requires { .. } => None,
        });
        let mut all = rules.chain(self.extra.iter().map(|(_, expression)| expression));
        self.username_reads(text) || all.any(|expression| expression.source().contains(text))
    }

    /// Errors: why the token is nobody's.
    pub fn user(&self, claims: &Value) -> Result<Actor, String> {
        for rule in &self.rules {
            rule.check("claims", claims)?;
        }
        let mut actor = Actor { user: self.username(claims)?, ..Actor::default() };
        if let Some(source) = &self.groups {
            actor.groups = source.texts(claims).map_err(|why| format!("groups: {why}"))?;
        }
        if let Some(source) = &self.uid {
            actor.uid = source.text(claims).map_err(|why| format!("uid: {why}"))?;
        }
        for (key, expression) in &self.extra {
            let values =
                texts(&expression.evaluate("claims", claims)?).map_err(|why| format!("{key}: {why}"))?;
            if !values.is_empty() {
                actor.extra.insert(key.clone(), values);
            }
        }
        if let Some(id) = claims["jti"].as_str() {
            let key = "authentication.kubernetes.io/credential-id";
            actor.extra.insert(key.into(), vec![format!("JTI={id}")]);
        }
        let user = json!({
            "username": actor.user, "uid": actor.uid, "groups": actor.groups, "extra": actor.extra,
        });
        for rule in &self.users {
            rule.check("user", &user)?;
        }
        if !actor.is_in(AUTHENTICATED) {
            actor.groups.push(AUTHENTICATED.into());
        }
        Ok(actor)
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        // An address that its owner never proved to have may be anybody's.
        if let Source::Claim { claim, .. } = &self.username
            && claim == "email"
            && !matches!(claims["email_verified"], Value::Null | Value::Bool(true))
        {
            return Err("email not verified".into());
        }
        match self.username.text(claims).map_err(|why| format!("username: {why}"))? {
            name if name.is_empty() => Err("username: it is empty".into()),
            name => Ok(name),
        }
    }
}

impl Source {
    fn text(&self, claims: &Value) -> Result<String, String> {
        let (value, prefix) = self.value(claims)?;
        match value.as_str() {
            Some("") => Ok(String::new()),
            Some(text) => Ok(format!("{prefix}{text}")),
            None => Err("it is missing or no string".into()),
        }
    }

    fn texts(&self, claims: &Value) -> Result<Vec<String>, String> {
        let (value, prefix) = self.value(claims)?;
        Ok(texts(&value)?.into_iter().map(|text| format!("{prefix}{text}")).collect())
    }

    fn value(&self, claims: &Value) -> Result<(Value, &str), String> {
        match self {
            Self::Claim { claim, prefix } => Ok((claims[claim.as_str()].clone(), prefix)),
            Self::Expression(expression) => Ok((expression.evaluate("claims", claims)?, "")),
        }
    }
}

/// One text or several; none at all is fine.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let text = |item: &Value| item.as_str().map(str::to_owned).ok_or("a value is no string".to_owned());
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(one) if one.is_empty() => Ok(Vec::new()),
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(all) => all.iter().map(text).collect(),
        _ => Err("it is neither a string nor a list of strings".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(claim: &str, prefix: &str) -> Source {
        Source::Claim { claim: claim.into(), prefix: prefix.into() }
    }

    fn expression(text: &str) -> Expression {
        Expression::on_claims(text).unwrap()
    }

    fn mapping(username: Source) -> Mapping {
        Mapping { username, groups: None, uid: None, extra: Vec::new(), rules: Vec::new(), users: Vec::new() }
    }

    #[test]
    fn claims_become_a_user_with_prefixes() {
        let mut mapping = mapping(plain("sub", "oidc:"));
        mapping.groups = Some(plain("roles", "idp:"));
        mapping.uid = Some(plain("uid", ""));
        let claims = json!({"sub": "ann", "roles": ["dev", "ops"], "uid": "7", "jti": "x"});
        let actor = mapping.user(&claims).unwrap();
        assert_eq!((actor.user.as_str(), actor.uid.as_str()), ("oidc:ann", "7"));
        assert_eq!(actor.groups, ["idp:dev", "idp:ops", AUTHENTICATED]);
        assert_eq!(actor.extra["authentication.kubernetes.io/credential-id"], ["JTI=x"]);
        assert_eq!(
            mapping.user(&json!({"sub": "ann", "uid": "7", "roles": "one"})).unwrap().groups[0],
            "idp:one"
        );
        assert!(mapping.user(&json!({"uid": "7"})).unwrap_err().contains("username"));
        assert!(mapping.user(&json!({"sub": "", "uid": "7"})).unwrap_err().contains("empty"));
    }

    #[test]
    fn expressions_map_and_judge() {
        let mut mapping = mapping(Source::Expression(expression("claims.name + ':staff'")));
        mapping.groups = Some(Source::Expression(expression("claims.roles.split(',')")));
        mapping.extra = vec![
            ("example.com/tenant".into(), expression("claims.tenant")),
            ("example.com/none".into(), expression("claims.?missing.orValue('')")),
        ];
        mapping.rules = vec![
            Rule::Requires { claim: "hd".into(), value: "example.com".into() },
            Rule::Holds {
                expression: expression("claims.exp - claims.iat <= 3600"),
                message: "too long".into(),
            },
        ];
        let user =
            Expression::on_user("!user.username.startsWith('system:') && user.groups.all(g, g != 'root')")
                .unwrap();
        mapping.users = vec![Rule::Holds { expression: user, message: "reserved".into() }];
        let claims = |name: &str, roles: &str, exp: i64| json!({"name": name, "roles": roles, "tenant": "t", "hd": "example.com", "iat": 100, "exp": exp});
        let actor = mapping.user(&claims("ann", "a,b", 200)).unwrap();
        assert_eq!(
            (actor.user.as_str(), &actor.groups[..2]),
            ("ann:staff", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(actor.extra.keys().collect::<Vec<_>>(), ["example.com/tenant"]);
        assert_eq!(mapping.user(&claims("ann", "a", 9_000)).unwrap_err(), "too long");
        assert_eq!(mapping.user(&claims("system:x", "a", 200)).unwrap_err(), "reserved");
        assert_eq!(mapping.user(&claims("ann", "root", 200)).unwrap_err(), "reserved");
        let mut other = claims("ann", "a", 200);
        other["hd"] = "evil.example".into();
        assert!(mapping.user(&other).unwrap_err().contains("hd"));
    }

    #[test]
    fn an_address_counts_when_it_is_verified() {
        let mapping = mapping(plain("email", ""));
        let with = |verified: Value| mapping.user(&json!({"email": "a@b", "email_verified": verified}));
        assert!(with(true.into()).is_ok() && with(Value::Null).is_ok());
        assert!(with(false.into()).is_err() && with("true".into()).is_err());
    }
}
