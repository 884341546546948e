//! The task's inputs. Their names and defaults are a contract: pipelines that used Amazon's task keep theirs.

use ecr_push::{Error, Result};

use super::agent::Agent;
use crate::ci::values::{self, Names};

/// What the pipeline's author wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// `awsCredentials`: the id of a service connection.
    pub connection: Option<String>,
    /// `regionName`, in lower case.
    pub region: Option<String>,
    /// The image, as the engine is asked for it.
    pub image: Image,
    /// `repositoryName`.
    pub repository: String,
    /// `pushTag`: none if it was left empty on purpose.
    pub tags: Vec<String>,
    pub create_repository: bool,
    pub force_naming: bool,
    pub remove_image: bool,
    /// `outputVariable`.
    pub output_variable: Option<String>,
    pub log_request: bool,
    pub log_response: bool,
}

/// How the image is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// `sourceImageName` with `:` and `sourceImageTag`.
    Name(String),
    /// `sourceImageId`.
    Id(String),
}

/// Every input there is, with its default. The first fourteen are upstream's.
pub const INPUTS: [(&str, &str); 21] = [
    ("awsCredentials", ""),
    ("regionName", ""),
    ("imageSource", "imagename"),
    ("sourceImageName", ""),
    ("sourceImageTag", "latest"),
    ("sourceImageId", ""),
    ("repositoryName", ""),
    ("pushTag", "latest"),
    ("autoCreateRepository", "false"),
    ("forceDockerNamingConventions", "false"),
    ("removeDockerImage", "false"),
    ("outputVariable", ""),
    ("logRequest", "false"),
    ("logResponse", "false"),
    (OWN.platform, ""),
    (OWN.attestations, "keep"),
    (OWN.compression, ""),
    (OWN.reuse, "registry"),
    (OWN.reuse_from, ""),
    (OWN.mount_from, ""),
    (OWN.cache, ""),
];

/// The inputs that upstream does not have.
pub const OWN: Names = Names {
    platform: "platform",
    attestations: "attestations",
    compression: "compression",
    reuse: "reuse",
    reuse_from: "reuseFrom",
    mount_from: "mountFrom",
    cache: "cacheFolder",
};

/// The variables that the task sets as outputs of its step, as task.json declares them.
pub const OUTPUTS: [&str; 3] = ["digest", "uri", "tags"];

const OPERATION: &str = "read the inputs";

impl Inputs {
    /// Reads and checks them.
    ///
    /// # Errors
    /// If one that is needed is missing, or one cannot be what its author meant.
    pub fn read(agent: &Agent<'_>) -> Result<Self> {
        let input = |name: &str| {
            let default = INPUTS.iter().find(|(known, _)| *known == name).map_or("", |(_, default)| default);
            agent.input(name).unwrap_or_else(|| default.to_owned())
        };
        // What the other choice of `imageSource` would use is not read at all.
        let unused: &[&str] = match input("imageSource") {
            id if id.eq_ignore_ascii_case("imageid") => &["sourceImageName", "sourceImageTag"],
            _ => &["sourceImageId"],
        };
        for (name, _) in INPUTS.iter().filter(|(name, _)| !unused.contains(name)) {
            resolved(name, &input(name))?;
        }
        let required = |name: &str| match input(name) {
            empty if empty.is_empty() => Err(Error::refused(OPERATION, format!("Input required: {name}"))
                .with_hint(format!("give the task a value for `{name}`"))),
            value => Ok(value),
        };
        let given = |name: &str| Some(input(name)).filter(|value| !value.is_empty());
        // The rule of Microsoft's library: `1` and `yes` are false.
        let truth = |name: &str| input(name).eq_ignore_ascii_case("true");

        let source = required("imageSource")?;
        let repository = required("repositoryName")?;
        let image = match source.as_str() {
            "imagename" => {
                let tag = given("sourceImageTag").unwrap_or_else(|| "latest".to_owned());
                Image::Name(named(&required("sourceImageName")?, &tag)?)
            }
            id if id.eq_ignore_ascii_case("imageid") => Image::Id(required("sourceImageId")?),
            other => {
                return Err(Error::refused(OPERATION, format!("`imageSource` is `{other}`, which is not known"))
                    .with_hint("write `imagename` or `imageid`"));
            }
        };
        Ok(Self {
            connection: given("awsCredentials"),
            region: given("regionName").map(|region| region.to_lowercase()),
            image,
            repository,
            tags: values::tags("pushTag", &input("pushTag"))?,
            create_repository: truth("autoCreateRepository"),
            force_naming: truth("forceDockerNamingConventions"),
            remove_image: truth("removeDockerImage"),
            output_variable: given("outputVariable").map(output_variable).transpose()?,
            log_request: truth("logRequest"),
            log_response: truth("logResponse"),
        })
    }
}

/// Each input as the agent gives it, for the debug log.
pub fn shown(agent: &Agent<'_>) -> Vec<String> {
    let secrets = agent.secret_variables();
    let given = INPUTS.iter().filter_map(|(name, _)| Some((name, agent.input(name)?)));
    let hidden = |value: String| secrets.iter().fold(value, |value, secret| value.replace(secret.as_str(), "***"));
    given.map(|(name, value)| format!("{name}={}", hidden(value))).collect()
}

/// A macro that the agent did not know stays in the value as it was written.
fn resolved(name: &str, value: &str) -> Result<()> {
    let Some(at) = value.find("$(") else { return Ok(()) };
    let variable: String = value[at..].chars().take_while(|c| *c != ')').chain(")".chars()).collect();
    Err(Error::refused(OPERATION, format!("`{name}` holds {variable}, and the job has no such variable"))
        .with_hint("set the variable, or correct its name; one that another job or stage has set must be handed on"))
}

/// The name is taken as it is, so a tag in it makes a name that no engine knows.
fn named(name: &str, tag: &str) -> Result<String> {
    let whole = format!("{name}:{tag}");
    ecr_push::engine::check_name(&whole).map_err(|_| {
        let error = Error::refused(
            OPERATION,
            format!("`{whole}`, made of `sourceImageName` and `sourceImageTag`, is not an image's name"),
        );
        let last = name.rsplit('/').next().unwrap_or(name);
        match last.split_once([':', '@']) {
            Some((_, rest)) => error.with_hint(format!(
                "leave `{rest}` out of `sourceImageName`: a tag goes into `sourceImageTag`, an ID into `sourceImageId`"
            )),
            None => error.with_hint("names are in lower case; look at `docker images`"),
        }
    })?;
    Ok(whole)
}

/// Line breaks and the like would be a mistake; other odd letters are the author's business.
fn output_variable(name: String) -> Result<String> {
    if name.chars().any(char::is_control) {
        return Err(Error::refused(OPERATION, "`outputVariable` holds a line break or another control character")
            .with_hint("give one variable's name"));
    }
    // The agent makes an output of every variable that task.json declares as one: `$(name)` would stay unset.
    if OUTPUTS.iter().any(|output| output.eq_ignore_ascii_case(&name)) {
        return Err(Error::refused(
            OPERATION,
            format!("`outputVariable` is `{name}`, which is an output of this task"),
        )
        .with_hint(format!("choose another name; the output is read as `$(STEP.{name})`")));
    }
    Ok(name)
}

/// Upstream's rule for `forceDockerNamingConventions`: lower case, and nothing but `a-z`, `0-9`, `-`, `_` and `.`.
pub fn forced(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn read(variables: &[(&str, &str)]) -> Result<Inputs> {
        let mut all = vec![("INPUT_REPOSITORYNAME", "app"), ("INPUT_SOURCEIMAGENAME", "app")];
        all.retain(|(name, _)| !variables.iter().any(|(other, _)| other == name));
        all.extend(variables);
        Inputs::read(&Agent(&Environment::of(&all)))
    }

    #[test]
    fn defaults_are_those_of_the_task() {
        let inputs = read(&[]).unwrap();
        assert_eq!(inputs.image, Image::Name("app:latest".into()));
        assert_eq!(inputs.tags, ["latest"]);
        let off = [inputs.create_repository, inputs.force_naming, inputs.remove_image, inputs.log_request];
        assert_eq!(off, [false; 4]);
        assert_eq!((inputs.connection, inputs.region, inputs.output_variable), (None, None, None));
    }

    #[test]
    fn tags_come_one_by_one_and_none_on_purpose() {
        assert_eq!(read(&[("INPUT_PUSHTAG", "a, b\n c ,,\r\n")]).unwrap().tags, ["a", "b", "c"]);
        assert!(read(&[("INPUT_PUSHTAG", "")]).unwrap().tags.is_empty());
    }

    #[test]
    fn macros_that_stayed_are_refused_by_name() {
        let error = read(&[("INPUT_PUSHTAG", "v-$(Build.Number)-x")]).unwrap_err();
        assert_eq!(error.message(), "`pushTag` holds $(Build.Number), and the job has no such variable");
        assert!(read(&[("INPUT_OUTPUTVARIABLE", "$(x")]).is_err());
        assert!(read(&[("INPUT_OUTPUTVARIABLE", "a\nb")]).is_err());
        assert!(read(&[("INPUT_OUTPUTVARIABLE", "a;b]c")]).is_ok());
    }

    #[test]
    fn a_variable_does_not_have_the_name_of_an_output() {
        for name in ["digest", "Uri", "TAGS"] {
            let error = read(&[("INPUT_OUTPUTVARIABLE", name)]).unwrap_err();
            assert!(error.is_refused() && error.message().contains("which is an output of this task"), "{error}");
        }
        assert!(read(&[("INPUT_OUTPUTVARIABLE", "imageUri")]).is_ok());
    }

    #[test]
    fn forced_names_are_upstreams() {
        for (name, expected) in [
            ("RepoName", "reponame"),
            ("my-repo.name_01", "my-repo.name_01"),
            ("m!y@r #e$p%o^n&a*m(e)", "myreponame"),
            ("Team/My_App", "teammy_app"),
        ] {
            assert_eq!(forced(name), expected);
        }
    }
}
