//! `--output-file`: the result for a later step or job, in a form that it can read.

use std::io::Write;
use std::path::{Path, PathBuf};

use ecr_push::push::PushReport;
use ecr_push::{Error, Result};

use super::json;

/// A file that is to hold the result.
#[derive(Clone, Debug)]
pub struct OutputFile {
    path: PathBuf,
    /// The file itself, where the path is a link to one.
    target: PathBuf,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// One JSON object.
    Json,
    /// `NAME=value`, without quotes: GitLab keeps quotes as part of the value.
    Env,
    /// `name=value`, as Java and Jenkins read it.
    Properties,
}

impl OutputFile {
    /// The form is known by the file's ending.
    ///
    /// # Errors
    /// If it is another one.
    pub fn new(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        // A file called `.env` has no ending in the eyes of the library.
        let ending = if path.file_name().is_some_and(|name| name == ".env") { "env" } else { ending };
        let form = match ending {
            "json" => Form::Json,
            "env" => Form::Env,
            "properties" => Form::Properties,
            _ => {
                let message = format!("the output file `{}` has no ending that names its form", path.display());
                return Err(
                    Error::refused("choose the output file", message).with_hint("end it in .json, .env or .properties")
                );
            }
        };
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path: path.to_owned(), target, form })
    }

    /// Makes ready for the result: what an earlier push left is taken away, so that nobody takes it for this one's.
    ///
    /// # Errors
    /// If the file could not be written later.
    pub fn prepare(&self) -> Result<()> {
        let refuse = |what: String| Error::refused("prepare the output file", what);
        let shown = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => Err(refuse(format!("the output file `{shown}` is a folder"))),
            Ok(found) if !found.is_file() => Ok(()),
            found => {
                let removed = if found.is_ok() { std::fs::remove_file(&self.target) } else { Ok(()) };
                removed.and_then(|()| self.temporary().map(drop)).map_err(|error| {
                    let why = bare(&error);
                    refuse(format!("the output file `{shown}` cannot be written: {why}"))
                        .with_hint("name a file in a folder that exists and may be written to")
                })
            }
        }
    }

    /// Writes the result. A reader never sees half of it, unless the file is a pipe or a device.
    ///
    /// # Errors
    /// If the file cannot be written; the image is pushed all the same.
    pub fn write(&self, report: &PushReport) -> std::io::Result<()> {
        // Only the object says that nothing was pushed; the others would be taken for a result.
        if report.dry_run && !matches!(self.form, Form::Json) {
            return Ok(());
        }
        let text = self.text(report);
        if std::fs::metadata(&self.path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            return std::fs::OpenOptions::new().write(true).open(&self.path)?.write_all(text.as_bytes());
        }
        let mut file = self.temporary()?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.target)?;
        Ok(())
    }

    /// A file beside it that has no reader yet.
    fn temporary(&self) -> std::io::Result<tempfile::NamedTempFile> {
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        #[cfg_attr(not(unix), expect(unused_mut))]
        let mut builder = tempfile::Builder::new();
        // A temporary file is its owner's alone; this one is to be read by later steps, as any other that a program writes.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.tempfile_in(folder)
    }

    /// For people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn text(&self, report: &PushReport) -> String {
        let values = values(report);
        let lines = values.iter().map(|(name, value)| match self.form {
            Form::Env => format!("ECR_PUSH_{}={value}\n", name.to_uppercase()),
            _ => format!("{name}={value}\n"),
        });
        match self.form {
            Form::Json => json::object(report) + "\n",
            Form::Env | Form::Properties => lines.collect(),
        }
    }
}

/// The reason alone: a temporary file's name says nothing to anybody.
pub fn bare(error: &std::io::Error) -> String {
    let text = error.to_string();
    // tempfile adds it, and keeps what it adds it to for itself.
    text.split(" at path ").next().unwrap_or(&text).to_owned()
}

/// The result in six short values. None holds a quote, a blank or a line break: names, tags and digests have none.
pub fn values(report: &PushReport) -> [(&'static str, String); 6] {
    let (registry, repository) = report.repository.split_once('/').unwrap_or((&report.repository, ""));
    let tags: Vec<String> = report.tags.iter().map(ToString::to_string).collect();
    [
        ("image", report.references().next().unwrap_or_else(|| report.uri())),
        ("digest", report.digest.to_string()),
        ("uri", report.uri()),
        ("registry", registry.to_owned()),
        ("repository", repository.to_owned()),
        ("tags", tags.join(",")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides() {
        for good in ["a.json", "x/b.env", ".env", "c.d.properties"] {
            assert!(OutputFile::new(Path::new(good)).is_ok(), "{good}");
        }
        for bad in ["a", "a.JSON", "a.txt", "json", ""] {
            let error = OutputFile::new(Path::new(bad)).unwrap_err();
            assert!(error.is_refused() && error.hints()[0].contains(".properties"), "{bad}");
        }
    }
}
