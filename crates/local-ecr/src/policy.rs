//! Identity policies: the part of IAM's language that a push needs.

use serde_json::Value;

use crate::util::wildcard;

/// An IAM policy document with `Effect`, `Action` and `Resource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    allow: bool,
    actions: Vec<String>,
    resources: Vec<String>,
}

/// What the policies of a principal say about one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    Unmentioned,
}

impl Policy {
    /// Reads a policy document. What it cannot judge (`Condition`, `NotAction`, ...) it refuses, since leaving it out
    /// would allow or deny something else than was written.
    pub fn parse(json: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_str(json).map_err(|error| format!("the policy is not JSON: {error}"))?;
        let statements = match document.get("Statement") {
            Some(Value::Array(statements)) => statements.iter().map(Statement::parse).collect::<Result<_, _>>()?,
            Some(statement @ Value::Object(_)) => vec![Statement::parse(statement)?],
            _ => return Err("the policy has no Statement".into()),
        };
        Ok(Self { statements })
    }

    pub(crate) fn verdict(&self, action: &str, resource: &str) -> Verdict {
        let mut verdict = Verdict::Unmentioned;
        for statement in self.statements.iter().filter(|statement| statement.speaks_of(action, resource)) {
            if !statement.allow {
                return Verdict::Denied;
            }
            verdict = Verdict::Allowed;
        }
        verdict
    }
}

impl Statement {
    fn parse(value: &Value) -> Result<Self, String> {
        let members = value.as_object().ok_or("a policy statement is not an object")?;
        if let Some(unknown) =
            members.keys().find(|key| !["Sid", "Effect", "Action", "Resource"].contains(&key.as_str()))
        {
            return Err(format!("the policy uses {unknown}, which this server cannot judge"));
        }
        let allow = match members.get("Effect").and_then(Value::as_str) {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => return Err("the Effect of a policy statement is neither Allow nor Deny".into()),
        };
        Ok(Self { allow, actions: strings(value, "Action")?, resources: strings(value, "Resource")? })
    }

    fn speaks_of(&self, action: &str, resource: &str) -> bool {
        // IAM compares actions without case, resources with it.
        let action = action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| wildcard(&pattern.to_ascii_lowercase(), &action))
            && self.resources.iter().any(|pattern| wildcard(pattern, resource))
    }
}

fn strings(statement: &Value, member: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("the {member} of a policy statement is neither a string nor a list of strings");
    match statement.get(member) {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => many.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deny_beats_an_allow() {
        let policy = Policy::parse(
            r#"{"Statement":[{"Effect":"Allow","Action":"ecr:*","Resource":"*"},
                {"Effect":"Deny","Action":["ecr:PutImage"],"Resource":"arn:aws:ecr:*:*:repository/prod/*"}]}"#,
        )
        .unwrap();
        let arn = "arn:aws:ecr:us-east-1:123456789012:repository/";
        assert_eq!(policy.verdict("ecr:PutImage", &format!("{arn}prod/app")), Verdict::Denied);
        assert_eq!(policy.verdict("ecr:PutImage", &format!("{arn}dev/app")), Verdict::Allowed);
        assert_eq!(policy.verdict("s3:GetObject", "*"), Verdict::Unmentioned);
    }

    #[test]
    fn a_condition_is_refused_by_name() {
        let error = Policy::parse(
            r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"a":"true"}}}}"#,
        )
        .unwrap_err();
        assert_eq!(error, "the policy uses Condition, which this server cannot judge");
    }
}
