//! The examples of the documents, as they are written there: what is told to be run is what the tests run.

/// The fenced blocks in `language`, under the heading with this text.
///
/// # Panics
///
/// If there are none.
pub fn examples(page: &str, heading: &str, language: &str) -> Vec<String> {
    let (mut found, mut here, mut fence) = (Vec::new(), false, None::<bool>);
    for line in page.lines() {
        match (line.strip_prefix("```"), fence) {
            (Some(said), None) => {
                let wanted = here && said == language;
                fence = Some(wanted);
                if wanted {
                    found.push(String::new());
                }
            }
            (Some(_), Some(_)) => fence = None,
            (None, None) => {
                if line.starts_with('#') {
                    here = line.trim_start_matches('#').trim() == heading;
                }
            }
            (None, Some(false)) => {}
            (None, Some(true)) => {
                if let Some(block) = found.last_mut() {
                    block.push_str(line);
                    block.push('\n');
                }
            }
        }
    }
    assert!(!found.is_empty(), "no example in {language} under {heading}");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_heading_and_language() {
        let page = "# A\n```sh\nno\n```\n## B c\n```sh\n# x\ny\n```\n```toml\nno\n```\n```sh\nz\n```\n## D\n```sh\nno\n```\n";
        assert_eq!(examples(page, "B c", "sh"), ["# x\ny\n", "z\n"]);
    }
}
