//! Who may use whom. The rooms and their borders are those of docs/architecture.md (the design's section 2); this test
//! reads the sources and manifests of the workspace and refuses a wrong dependency.
//!
//! It works on text. That is enough for what `use`, `crate::` and a manifest say, and needs no compiler; a macro that
//! hides a path would get past it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A dependency of a whole crate that is refused. Development dependencies are free.
struct CrateRule {
    package: &'static str,
    /// A name, or a beginning of names if it ends in `*`.
    never: &'static [&'static str],
    because: &'static str,
}

const CRATES: &[CrateRule] = &[
    CrateRule {
        package: "ecr-push",
        never: &["clap*", "indicatif", "local-ecr", "ecr-push-cli", "tracing-subscriber"],
        because: "the library knows nothing of terminals and command lines, and is not its own judge",
    },
    CrateRule {
        package: "ecr-push-cli",
        never: &["reqwest", "hyper*", "http", "http-body*", "aws-*", "bollard", "rustls*", "tokio-rustls"],
        because: "the command line does not speak HTTP: one client, with one policy, is in the library",
    },
    CrateRule {
        package: "local-ecr",
        never: &["ecr-push*", "aws-*", "oci-spec", "reqwest"],
        because: "a stand-in that shares code with what it judges shares its mistakes",
    },
];

/// What a room of the library may use of the others.
enum Rooms {
    /// These and no others.
    Only(&'static [&'static str]),
    /// Any but these.
    Never(&'static [&'static str]),
}

struct RoomRule {
    room: &'static str,
    uses: Rooms,
    because: &'static str,
}

const ROOMS: &[RoomRule] = &[
    RoomRule { room: "text", uses: Rooms::Only(&[]), because: "every room uses it" },
    RoomRule { room: "error", uses: Rooms::Only(&["text"]), because: "every room uses it" },
    RoomRule {
        room: "image",
        uses: Rooms::Only(&["error", "text"]),
        because: "plain types that every room shares; they know no place an image can be",
    },
    RoomRule { room: "events", uses: Rooms::Only(&["image", "text"]), because: "what is reported is plain" },
    RoomRule {
        room: "host",
        uses: Rooms::Only(&[]),
        because: "where a host is, is said by its name and address alone, and in one place",
    },
    RoomRule {
        room: "child",
        uses: Rooms::Only(&["error", "text"]),
        because: "what a program receives does not depend on who starts it",
    },
    RoomRule {
        room: "compress",
        uses: Rooms::Only(&["error", "text"]),
        because: "bytes in, bytes out: the output depends on nothing else",
    },
    RoomRule {
        room: "known",
        uses: Rooms::Only(&["error", "image", "compress", "text"]),
        because: "what is known of blobs is plain, and a file; who asks registries is push",
    },
    RoomRule { room: "store", uses: Rooms::Only(&["image", "text"]), because: "it reads files, and asks nobody" },
    RoomRule {
        room: "containerd",
        uses: Rooms::Only(&["error", "image", "engine", "text"]),
        because: "a place images come from; of engine it uses the grammar of names",
    },
    RoomRule {
        room: "http",
        uses: Rooms::Only(&["error", "host", "text"]),
        because: "one client for everybody; what is asked with it is not its business",
    },
    RoomRule { room: "retry", uses: Rooms::Only(&["error", "events", "text"]), because: "the verdict is on the error" },
    RoomRule {
        room: "registry",
        uses: Rooms::Never(&["aws", "push", "engine", "compress"]),
        because: "the registry protocol is the same without AWS; what is ECR's own is added in push",
    },
    RoomRule {
        room: "source",
        uses: Rooms::Never(&["registry", "aws", "push", "http"]),
        because: "an image is described and read in the same way wherever it goes",
    },
    RoomRule {
        room: "aws",
        uses: Rooms::Never(&["registry", "push", "source", "engine", "compress"]),
        because: "credentials, region and the ECR API know nothing of images that are on their way",
    },
    RoomRule {
        room: "engine",
        uses: Rooms::Never(&["registry", "aws", "push", "source", "compress", "http"]),
        because: "a container engine is a place images come from; sources use it, not the other way round",
    },
    RoomRule { room: "push", uses: Rooms::Never(&[]), because: "the one room that joins the others" },
    RoomRule {
        room: "fuzzing",
        uses: Rooms::Never(&["push"]),
        because: "it hands bytes to whoever reads them; no build that is shipped has it",
    },
];

/// A piece of text that sources must not have, outside of tests.
struct WordRule {
    package: &'static str,
    words: &'static [&'static str],
    except: &'static [&'static str],
    because: &'static str,
}

const WORDS: &[WordRule] = &[
    WordRule {
        package: "ecr-push",
        words: &["println!", "eprintln!", "print!", "eprint!", "dbg!", "io::stdout", "io::stderr"],
        except: &[],
        because: "the library reports events and errors, and never prints",
    },
    WordRule {
        package: "ecr-push",
        words: &["process::exit", "process::abort", "ExitCode"],
        except: &[],
        because: "only the program ends itself",
    },
    WordRule {
        package: "ecr-push",
        words: &["env::var", "env::var_os", "env::vars", "env::temp_dir", "env::home_dir", "option_env!", "Env::real"],
        except: &["src/aws/ambient.rs"],
        because: "the environment is the command line's; the SDK's credential chain reads its own in one file",
    },
    WordRule {
        package: "ecr-push",
        words: &["Command::new", "process::Command"],
        except: &["src/child.rs"],
        because: "a program that is started receives what is on its list, and not the environment of the job",
    },
    WordRule {
        package: "ecr-push-cli",
        words: &["Command::new", "process::Command"],
        except: &[],
        because: "the library starts programs, in one file",
    },
    WordRule {
        package: "ecr-push",
        words: &["is_loopback", "is_link_local", "is_unicast_link_local", "169.254", "lookup_host"],
        except: &["src/host.rs"],
        because: "one predicate says where a host is, and one function what its name leads to",
    },
    WordRule {
        package: "ecr-push-cli",
        words: &["env::var", "env::var_os", "env::vars", "env::temp_dir", "env::home_dir"],
        except: &["src/environment.rs"],
        because: "every variable that this program looks at is in one file",
    },
    WordRule {
        package: "ecr-push-cli",
        words: &["println!", "eprintln!", "print!", "eprint!", "dbg!", "io::stdout", "io::stderr"],
        // The result, the demo's story, and a question to the terminal.
        except: &["src/main.rs", "src/demo/mod.rs", "src/report/mod.rs", "src/report/sink.rs"],
        because: "CI systems find commands in every line, so all lines leave by one door",
    },
    WordRule {
        package: "ecr-push-cli",
        words: &["process::exit", "TcpStream", "UnixStream"],
        except: &[],
        because: "main ends the program, and the library speaks to the network",
    },
];

#[test]
fn crates_depend_on_what_they_may() {
    let mut wrong = Vec::new();
    for CrateRule { package, never, because } in CRATES {
        let manifest = fs::read_to_string(crates().join(package).join("Cargo.toml")).unwrap();
        let dependencies = dependencies(&manifest);
        assert!(dependencies.len() > 3, "{package}: {dependencies:?}");
        for name in refused(&dependencies, never) {
            wrong.push(format!("{package} depends on {name}: {because}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_use_what_they_may() {
    let sources = sources("ecr-push");
    let rooms: BTreeSet<String> = sources.iter().map(|source| source.room()).filter(|room| room != "lib").collect();
    let known: BTreeSet<String> = ROOMS.iter().map(|rule| rule.room.to_owned()).collect();
    assert_eq!(rooms, known, "each room has a rule, and each rule a room");
    let wrong: Vec<String> = sources.iter().flat_map(|source| wrong_uses(source, &rooms)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_prints_exits_or_reads_the_environment_where_it_must_not() {
    let mut wrong = Vec::new();
    for rule in WORDS {
        let sources = sources(rule.package);
        for except in rule.except {
            assert!(sources.iter().any(|source| source.path == *except), "{except} is an exception and gone");
        }
        wrong.extend(sources.iter().flat_map(|source| wrong_words(source, rule)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_crate_has_unsafe_code_and_each_exception_has_its_reason() {
    for package in ["deflate", "ecr-push", "local-ecr"] {
        let root = fs::read_to_string(crates().join(package).join("src/lib.rs")).unwrap();
        assert!(root.contains("\n#![forbid(unsafe_code)]\n"), "{package}");
    }
    let main = fs::read_to_string(crates().join("local-ecr/src/main.rs")).unwrap();
    assert!(main.contains("\n#![forbid(unsafe_code)]\n"), "the program local-ecr");
    let main = fs::read_to_string(crates().join("ecr-push-cli/src/main.rs")).unwrap();
    assert!(main.contains("\n#![deny(unsafe_code)]\n"), "the program ecr-push");
    // Without a line of its own that allows it, a block does not compile there.
    let mut files = Vec::new();
    collect(&crates().join("ecr-push-cli/src"), &mut files);
    let allowed = files.iter().filter(|file| fs::read_to_string(file).unwrap().contains("#[allow(unsafe_code)]"));
    let allowed: Vec<&PathBuf> = allowed.collect();
    assert_eq!(allowed.len(), 1, "{allowed:?}");
    let text = fs::read_to_string(allowed[0]).unwrap();
    assert_eq!(text.matches("unsafe {").count(), text.matches("// SAFETY: ").count(), "{allowed:?}");
}

/// Where the library has a flag of a program that it runs, not of this one.
const FLAGS_OF_OTHERS: &[(&str, &str)] = &[("src/engine/ssh.rs", "--host")];

#[test]
fn the_library_names_settings_and_no_flags() {
    let sources = sources("ecr-push");
    for (path, flag) in FLAGS_OF_OTHERS {
        let of_others = |source: &Source| source.path == *path && source.flags() == [*flag];
        assert!(sources.iter().any(of_others), "{path} is an exception and gone");
    }
    let flags = sources.iter().flat_map(|source| source.flags().into_iter().map(|flag| (source.path.as_str(), flag)));
    let wrong: Vec<_> = flags.filter(|(path, flag)| !FLAGS_OF_OTHERS.contains(&(path, flag))).collect();
    assert!(
        wrong.is_empty(),
        "tasks and actions have other names for them, so that a sentence needs a Setting: {wrong:?}"
    );
}

/// Things that are counted. `text::count` has the word for one of them.
const COUNTED: [&str; 10] =
    ["attestations", "blobs", "entries", "images", "layers", "manifests", "retries", "tags", "times", "tries"];

/// Where a sentence is there only if they are several.
const SEVERAL: [&str; 8] = [
    "src/containerd/client.rs",
    "src/engine/client.rs",
    "src/push/limits.rs",
    "src/report/repeats.rs",
    "src/source/archive.rs",
    "src/source/pick.rs",
    "src/source/select.rs",
    "src/source/tar_index.rs",
];

#[test]
fn numbers_have_words_that_fit_them() {
    let sources = ["ecr-push", "ecr-push-cli"].into_iter().flat_map(sources);
    let sources: Vec<Source> = sources.filter(|source| !source.counts().is_empty()).collect();
    for path in SEVERAL {
        assert!(sources.iter().any(|source| source.path == path), "{path} is an exception and gone");
    }
    let wrong: Vec<_> = sources.iter().filter(|source| !SEVERAL.contains(&source.path.as_str())).collect();
    let wrong: Vec<_> = wrong.iter().map(|source| (&source.path, source.counts())).collect();
    assert!(wrong.is_empty(), "one of them is none of these words: {wrong:?}");
}

/// One file, without comments and tests.
struct Source {
    /// Below the crate, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: without_comments(&without_tests(text)) }
    }

    /// The flags in it, but for those behind a command of another program in the same string.
    fn flags(&self) -> Vec<&str> {
        let flag = |at: usize| {
            let (before, from) = self.text.split_at(at);
            let name = from[2..].find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(from.len() - 2);
            let starts = from[2..].starts_with(|c: char| c.is_ascii_lowercase());
            let string = before.rsplit('"').next().unwrap_or_default();
            let is_of_others = ["aws ecr ", "aws sso ", "docker ps "].iter().any(|command| string.contains(command));
            let is_inside = before.ends_with(|c: char| c.is_alphanumeric() || c == '-');
            (starts && !is_inside && !is_of_others).then(|| &from[..2 + name])
        };
        self.text.match_indices("--").filter_map(|(at, _)| flag(at)).collect()
    }

    /// The counted things behind a number in a format string.
    fn counts(&self) -> Vec<&'static str> {
        COUNTED.into_iter().filter(|word| self.text.contains(&format!("}} {word}"))).collect()
    }

    /// The first name below `src`.
    fn room(&self) -> String {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
    }

    /// The rooms that the file names: `crate::room`, `crate::{room, ...}`, and the same from `super` where that is the
    /// crate.
    fn uses(&self, rooms: &BTreeSet<String>) -> BTreeSet<String> {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        // `super` of src/room.rs and of src/room/mod.rs is the crate; of src/room/file.rs it is the room.
        let mut up = below.matches('/').count();
        if !below.ends_with("mod.rs") {
            up += 1;
        }
        let roots = ["crate::".to_owned(), "super::".repeat(up)];
        let mut found = BTreeSet::new();
        for root in &roots {
            for (at, _) in self.text.match_indices(root.as_str()) {
                let before = self.text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                    continue;
                }
                found.extend(heads(&self.text[at + root.len()..]));
            }
        }
        found.retain(|name| rooms.contains(name) && *name != self.room());
        found
    }
}

fn wrong_uses(source: &Source, rooms: &BTreeSet<String>) -> Vec<String> {
    let Some(rule) = ROOMS.iter().find(|rule| rule.room == source.room()) else { return Vec::new() };
    let is_wrong = |room: &String| match rule.uses {
        Rooms::Only(list) => !list.contains(&room.as_str()),
        Rooms::Never(list) => list.contains(&room.as_str()),
    };
    let wrong = source.uses(rooms).into_iter().filter(is_wrong);
    wrong.map(|room| format!("{} uses {room}: {} ({})", source.path, rule.room, rule.because)).collect()
}

fn wrong_words(source: &Source, rule: &WordRule) -> Vec<String> {
    if rule.except.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let has = |word: &str| {
        source.text.match_indices(word).any(|(at, _)| {
            let before = source.text[..at].chars().next_back();
            let after = source.text[at + word.len()..].chars().next();
            let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !is_name(before) && !is_name(after)
        })
    };
    let words = rule.words.iter().filter(|word| has(word));
    words.map(|word| format!("{}/{} has `{word}`: {}", rule.package, source.path, rule.because)).collect()
}

/// The first names after a root: one, or those of a group in braces.
fn heads(text: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = text.strip_prefix('{') else { return vec![name(text)] };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && !c.is_whitespace() => {
                names.push(name(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

/// True for the attribute of what only tests have, also on some systems alone.
fn is_for_tests(line: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(all(test, "].iter().any(|start| line.trim_start().starts_with(start))
}

/// The text without items under `#[cfg(test)]`. Relies on rustfmt: an item ends where a line of its own indentation does.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indentation = line.len() - line.trim_start().len();
        if !is_for_tests(line) {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        for line in lines.by_ref() {
            let same = line.len() - line.trim_start().len() == indentation;
            if same && !line.trim_start().starts_with("#[") && line.trim_end().ends_with(['}', ';']) {
                break;
            }
        }
    }
    kept
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let mut from = 0;
        while let Some(at) = line[from..].find("//").map(|at| from + at) {
            // `https://` in a string is no comment.
            if at == 0 || line[..at].ends_with(char::is_whitespace) {
                return line[..at].to_owned();
            }
            from = at + 2;
        }
        line.to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// The names of what a manifest depends on, also as renamed, for this and every other platform.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let section = section.rsplit_once("'.").map_or(section, |(_, section)| section);
            inside = matches!(section, "dependencies" | "build-dependencies");
            names.extend(
                ["dependencies.", "build-dependencies."]
                    .iter()
                    .filter_map(|start| Some(section.strip_prefix(start)?.trim_matches('"').to_owned())),
            );
            continue;
        }
        if !inside || line.starts_with('#') {
            continue;
        }
        if let Some((key, value)) = line.split_once('=') {
            names.insert(key.split('.').next().unwrap_or_default().trim().trim_matches('"').to_owned());
            let renamed = value.split_once("package").and_then(|(_, rest)| rest.split('"').nth(1));
            names.extend(renamed.map(str::to_owned));
        }
    }
    names
}

fn refused<'a>(dependencies: &'a BTreeSet<String>, never: &[&str]) -> Vec<&'a str> {
    let matches = |name: &str| {
        never.iter().any(|rule| match rule.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *rule,
        })
    };
    dependencies.iter().map(String::as_str).filter(|name| matches(name)).collect()
}

fn crates() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The sources of a crate, without the files that are modules under `#[cfg(test)]`.
fn sources(package: &str) -> Vec<Source> {
    let root = crates().join(package);
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    let test_modules: BTreeSet<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
    let sources = files.into_iter().filter(|file| !test_modules.contains(file)).map(|file| {
        let path = file.strip_prefix(&root).unwrap().components().map(|c| c.as_os_str().to_string_lossy());
        Source::new(&path.collect::<Vec<_>>().join("/"), &fs::read_to_string(&file).unwrap())
    });
    let sources: Vec<Source> = sources.collect();
    assert!(sources.len() > 5, "{package} has sources");
    sources
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Files that `#[cfg(test)] mod name;` in `file` names.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
    let directory = file.parent().unwrap();
    let directory = match stem.as_str() {
        "mod" | "lib" | "main" => directory.to_owned(),
        stem => directory.join(stem),
    };
    let mut files = Vec::new();
    let mut after_cfg = false;
    for line in text.lines().map(str::trim) {
        let name = line.strip_suffix(';').and_then(|line| line.rsplit_once("mod ")).map(|(_, name)| name);
        match name {
            Some(name) if after_cfg => files.push(directory.join(format!("{name}.rs"))),
            _ => {}
        }
        after_cfg = is_for_tests(line) || after_cfg && line.starts_with("#[");
    }
    files
}

/// The checker itself.
mod checker {
    use super::*;

    fn rooms() -> BTreeSet<String> {
        ROOMS.iter().map(|rule| rule.room.to_owned()).collect()
    }

    fn uses(path: &str, text: &str) -> Vec<String> {
        Source::new(path, text).uses(&rooms()).into_iter().collect()
    }

    #[test]
    fn finds_every_way_to_name_a_room() {
        for text in [
            "use crate::aws::Region;",
            "use crate::aws;",
            "pub use crate::{error::{Error, Result}, aws::Region};",
            "use crate::{\n    error::Error,\n    aws,\n};",
            "fn f(region: &crate::aws::Region) {}",
            "use super::super::aws::Region;",
        ] {
            assert!(uses("src/registry/auth.rs", text).contains(&"aws".to_owned()), "{text}");
        }
        assert_eq!(uses("src/registry/mod.rs", "use super::aws::Region;"), ["aws"]);
        assert_eq!(uses("src/retry.rs", "use super::aws::Region;"), ["aws"]);
    }

    #[test]
    fn does_not_find_what_is_not_there() {
        for text in [
            "// use crate::aws::Region;",
            "/// See [`crate::aws`].",
            "use crate::registry::Auth;",
            "use other::aws::Region;",
            "use super::aws::Region;",
            "use my_crate::aws::Region;",
            "#[cfg(test)]\nmod tests {\n    use crate::aws::Region;\n}\n",
            "#[cfg(test)]\nuse crate::aws::Region;\n",
            "#[cfg(all(test, unix))]\nuse crate::aws::Region;\n",
            "#[cfg(test)]\n#[allow(unused)]\nfn f() {\n    if true {\n    }\n    crate::aws::f();\n}\n",
            "impl A {\n    #[cfg(test)]\n    fn f() {\n        crate::aws::f();\n    }\n}\n",
        ] {
            assert_eq!(uses("src/registry/auth.rs", text), Vec::<String>::new(), "{text}");
        }
        // What comes after a test is looked at again.
        let text = "#[cfg(test)]\nmod tests {\n    use crate::push::A;\n}\nuse crate::aws::Region;\n";
        assert_eq!(uses("src/registry/auth.rs", text), ["aws"]);
    }

    #[test]
    fn refuses_a_bad_room_with_its_reason() {
        for (path, text) in [
            ("src/registry/mod.rs", "use crate::aws::Region;"),
            ("src/registry/upload.rs", "use crate::{error::Result, push::Spool};"),
            ("src/source/mod.rs", "use crate::registry::Auth;"),
            ("src/aws/ecr.rs", "use crate::source::Content;"),
            ("src/engine/name.rs", "use crate::registry::Auth;"),
            ("src/image/name.rs", "use crate::events::Event;"),
            ("src/compress/gzip.rs", "use crate::image::Digest;"),
        ] {
            let wrong = wrong_uses(&Source::new(path, text), &rooms());
            assert!(matches!(&wrong[..], [one] if one.starts_with(path)), "{path}: {wrong:?}");
        }
        let good = Source::new("src/push/mod.rs", "use crate::{aws::A, registry::B, source::C};");
        assert!(wrong_uses(&good, &rooms()).is_empty());
    }

    #[test]
    fn refuses_bad_words() {
        let wrong = |path: &str, text: &str| -> usize {
            let source = Source::new(path, text);
            WORDS[..3].iter().map(|rule| wrong_words(&source, rule).len()).sum()
        };
        for text in [
            "fn f() { println!(\"x\"); }",
            "fn f() { eprint!(\"x\"); }",
            "fn f() { std::process::exit(1) }",
            "let x = std::env::var(\"X\");",
            "use std::env; let x = env::var_os(\"X\");",
        ] {
            assert_eq!(wrong("src/push/mod.rs", text), 1, "{text}");
        }
        for text in
            ["// println!(\"x\")", "let x = env!(\"CARGO_PKG_VERSION\");", "#[cfg(test)]\nfn f() { println!() }"]
        {
            assert_eq!(wrong("src/push/mod.rs", text), 0, "{text}");
        }
        assert_eq!(wrong("src/aws/ambient.rs", "let x = std::env::var(\"X\");"), 0);
        assert_eq!(wrong("src/aws/ambient.rs", "println!()"), 1);
    }

    #[test]
    fn finds_flags() {
        for (text, flags) in [
            (r#"hint("add `--create-repository`")"#, &["--create-repository"][..]),
            (r#"hint("--fips and --dualstack")"#, &["--fips", "--dualstack"]),
            (r#"hint("aws ecr x"); hint("--region")"#, &["--region"]),
            (r#"hint("or: aws ecr create-repository --region {}")"#, &[]),
            (r#"hint("`docker ps --all`"); "-----BEGIN"; "a--b"; i -- 1"#, &[]),
            ("// --region\n#[cfg(test)]\nfn f() { \"--region\" }\n", &[]),
        ] {
            assert_eq!(Source::new("src/push/mod.rs", text).flags(), flags, "{text}");
        }
    }

    #[test]
    fn reads_manifests() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { version = \"1\" }\n\
                        # c = \"1\"\nd = { package = \"reqwest\", version = \"1\" }\n[dependencies.hyper]\nversion = \"1\"\n\
                        [target.'cfg(unix)'.dependencies]\naws-config = \"1\"\n[dev-dependencies]\nlocal-ecr.workspace = true\n\
                        [build-dependencies]\ncc = \"1\"\n";
        let names = dependencies(manifest);
        let expected = ["a", "aws-config", "b", "cc", "d", "hyper", "reqwest"];
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        assert_eq!(refused(&names, &["aws-*", "reqwest", "hyper"]), ["aws-config", "hyper", "reqwest"]);
        assert!(refused(&names, &["local-ecr"]).is_empty(), "development dependencies are free");
    }
}
