//! ECR's quotas: how fast each action may be called, and how much of everything there may be (ecr-facts section 3; the user guide's
//! page "Amazon ECR service quotas").

/// How often an action may be called in a second, by everybody in the account and region together. Adjustable.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The action, as policies name it: `PutImage`.
    pub action: &'static str,
    /// Calls a second in a private registry.
    pub private: f64,
    /// Calls a second in the public registry.
    pub public: f64,
}

/// The rates of the actions that the registry's requests stand for.
pub const RATES: [Rate; 6] = [
    Rate { action: "BatchCheckLayerAvailability", private: 1000.0, public: 200.0 },
    Rate { action: "InitiateLayerUpload", private: 100.0, public: 10.0 },
    Rate { action: "CompleteLayerUpload", private: 100.0, public: 10.0 },
    Rate { action: "PutImage", private: 10.0, public: 10.0 },
    // The public registry's is not published.
    Rate { action: "BatchGetImage", private: 2000.0, public: 2000.0 },
    Rate { action: "GetDownloadUrlForLayer", private: 3000.0, public: 3000.0 },
];

/// The host of the public registry.
pub const PUBLIC_REGISTRY: &str = "public.ecr.aws";

struct Quota {
    /// A word of the service's sentence that tells it from the others.
    word: &'static str,
    /// Its name in the list of quotas.
    name: &'static str,
    number: &'static str,
    remedy: &'static str,
}

const ASK: &str = "or ask for a higher quota: Service Quotas, Amazon Elastic Container Registry";

/// More telling words first: the sentence about tags also names the image.
const QUOTAS: [Quota; 6] = [
    Quota {
        word: "tags per image",
        name: "Tags per image",
        number: "1,000",
        remedy: "remove tags that nobody uses, or push fewer; it is fixed",
    },
    Quota {
        word: "layers per image",
        name: "Layers per image",
        number: "about 500, which AWS does not publish",
        remedy: "build the image with fewer layers: join RUN lines, use a multi-stage build, or squash; it is fixed",
    },
    Quota {
        word: "parts",
        name: "Layer parts",
        number: "4,200 for a layer",
        remedy: "make the layer smaller; it is fixed",
    },
    Quota {
        word: "layer",
        name: "Layer size",
        number: "52,000 MiB",
        remedy: "put the files into several layers; it is fixed",
    },
    Quota {
        word: "repositories",
        name: "Registered repositories",
        number: "100,000 for an account and region",
        remedy: "delete repositories that nobody uses",
    },
    Quota {
        word: "images",
        name: "Images per repository",
        number: "100,000 for a repository",
        remedy: "delete old images, best by a lifecycle policy",
    },
];

/// What the user can do about the quota that a refusal speaks of. The code has decided that it is one; the service's sentence tells which.
pub fn quota_hint(sentence: &str) -> String {
    // What it quotes are names, which may hold any word.
    let text: String = sentence.split('\'').step_by(2).collect::<String>().to_lowercase();
    let Some(quota) = QUOTAS.iter().find(|quota| text.contains(quota.word)) else {
        return format!(
            "a quota of Amazon ECR is reached, and trying again will not help: see the list under Service Quotas, {ASK}"
        );
    };
    let more = if quota.remedy.ends_with("fixed") { String::new() } else { format!(", {ASK}") };
    format!("the quota `{}` is {} by default: {}{more}", quota.name, quota.number, quota.remedy)
}

/// What AWS says of quotas alone. The registry puts it on more than one status and code: the quota of images is on record as a 403
/// `DENIED` (containers-roadmap#2159), others as a 405 `UNSUPPORTED` (ecr-facts 4.2, 4.6).
const OF_QUOTAS: [&str; 4] =
    ["maximum allowed number of", "maximum number of", "limit on number of", "cannot have more than"];

/// True if a refusal is about a quota: the API's code says so, or the sentence.
pub fn is_quota(code: Option<&str>, status: Option<u16>, sentence: &str) -> bool {
    if code == Some("LimitExceededException") {
        return true;
    }
    let text = sentence.to_lowercase();
    // A rate is none: it passes.
    if status == Some(429) || text.contains("is not authorized to perform") {
        return false;
    }
    let is_unsupported = code == Some("UNSUPPORTED") && status == Some(405);
    OF_QUOTAS.iter().any(|words| text.contains(words)) || (is_unsupported && text.contains("limit of"))
}

/// What to do when an action is still throttled after everything was tried.
pub fn throttle_hint(action: &str) -> Option<String> {
    let rate = RATES.iter().find(|rate| rate.action == action)?;
    Some(format!(
        "Amazon ECR takes {} {action} requests a second from everybody in the account and region together; push less at the same time, or \
         ask for a higher rate: Service Quotas, Amazon Elastic Container Registry",
        rate.private
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_by_its_code_and_named_by_its_sentence() {
        let text = "The maximum number of tags per image has been reached for the image with digest 'sha256:0'";
        assert!(
            is_quota(Some("UNSUPPORTED"), Some(405), text) && is_quota(Some("LimitExceededException"), Some(400), "")
        );
        assert!(!is_quota(Some("UNSUPPORTED"), Some(405), "Invalid parameter at 'ImageManifest'"));
        assert!(!is_quota(Some("TOOMANYREQUESTS"), Some(429), "Rate exceeded"));
        let full = "already has the maximum allowed number of images which is '100000'";
        for (code, status) in
            [(Some("DENIED"), 403), (Some("UNSUPPORTED"), 405), (Some("TAG_INVALID"), 400), (None, 400)]
        {
            assert!(is_quota(code, Some(status), full), "{code:?} {status}");
        }
        let denied = "User: x is not authorized to perform: ecr:PutImage on resource: y";
        assert!(!is_quota(Some("DENIED"), Some(403), denied));
        for (sentence, expected) in [
            (text, "`Tags per image` is 1,000"),
            (
                "The maximum number of repositories per registry has been reached",
                "`Registered repositories` is 100,000",
            ),
            ("The maximum number of images per repository has been reached", "`Images per repository` is 100,000"),
            ("Limit on number of layers per image exceeded", "`Layers per image` is about 500"),
            ("A layer cannot have more than 4200 parts", "`Layer parts` is 4,200"),
            ("The layer is larger than the limit of 52000 bytes", "`Layer size` is 52,000 MiB"),
            (
                "The repository with name 'layer/parts' in registry with id '123456789012' already has the maximum allowed number of \
                 images which is '100000'",
                "`Images per repository` is 100,000",
            ),
            ("something new", "a quota of Amazon ECR is reached"),
        ] {
            let hint = quota_hint(sentence);
            assert!(hint.contains(expected), "{sentence}: {hint}");
        }
        assert!(quota_hint("images per repository").contains("ask for a higher quota"));
        assert!(!quota_hint("tags per image").contains("ask for"));
        assert!(throttle_hint("PutImage").is_some_and(|hint| hint.contains("takes 10 PutImage")));
        assert_eq!(throttle_hint("Unknown"), None);
    }
}
