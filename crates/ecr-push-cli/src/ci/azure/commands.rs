//! Logging commands of Azure Pipelines: `##vso[area.event name=value;]data`.
//!
//! The agent looks for them anywhere in a line, on both streams (learn.microsoft.com, "Logging commands").

/// A command. What has no value is left out, as Microsoft's own library does.
pub fn command(name: &str, properties: &[(&str, &str)], data: &str) -> String {
    let mut text = format!("##vso[{name}");
    for (at, (key, value)) in properties.iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        text.push(if at == 0 { ' ' } else { ';' });
        text.push_str(&format!("{key}={}", property(value)));
    }
    if properties.iter().any(|(_, value)| !value.is_empty()) {
        text.push(';');
    }
    format!("{text}]{}", escape(data))
}

/// An error or warning that the build's page shows.
pub fn issue(kind: &str, text: &str) -> String {
    // The agent drops the source of tasks that are not its server's own; upstream's logs have it.
    let source = if kind == "error" { "TaskInternal" } else { "" };
    command("task.issue", &[("type", kind), ("source", source)], text)
}

/// Text in which the agent finds no command. The replacement is the one the agent uses itself.
pub fn harmless(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("##") {
        let (before, from) = rest.split_at(at);
        result.push_str(before);
        let behind = &from[2..];
        let is_command =
            behind.starts_with('[') || behind.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("vso"));
        result.push_str(if is_command { "**" } else { "#" });
        rest = if is_command { behind } else { &from[1..] };
    }
    result.push_str(rest);
    result
}

/// Data: the percent sign first, or the other two would be escaped twice. `;` and `]` stay, for a parser of Microsoft's
/// does not decode them here.
fn escape(text: &str) -> String {
    text.replace('%', "%AZP25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    escape(text).replace(']', "%5D").replace(';', "%3B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_end_a_command() {
        assert_eq!(command("task.debug", &[], "a%0A\nb]"), "##vso[task.debug]a%AZP250A%0Ab]");
        let name = "a;b]c%\r";
        assert_eq!(
            command("task.setvariable", &[("variable", name), ("x", "")], "v"),
            "##vso[task.setvariable variable=a%3Bb%5Dc%AZP25%0D;]v"
        );
        assert_eq!(issue("warning", "w"), "##vso[task.issue type=warning;]w");
    }

    #[test]
    fn a_command_in_text_is_broken_and_other_text_is_not() {
        assert_eq!(harmless("a##VsO[x]###vso[y]##[z] # ## ###"), "a**VsO[x]#**vso[y]**[z] # ## ###");
        assert_eq!(harmless("##é"), "##é");
    }
}
