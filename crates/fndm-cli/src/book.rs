//! The commands that the book prints are commands of this program, and its pages are all there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::Program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All pages below docs, relative to it.
fn pages() -> BTreeSet<String> {
    let docs = root().join("docs");
    let mut found = BTreeSet::new();
    for folder in [docs.clone(), docs.join("tutorials")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "md") {
                let below = path.strip_prefix(&docs).unwrap();
                found.insert(below.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found
}

/// Words of a line as a shell splits it, without its comments, pipes and quotes within words.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            '#' | '|' | '>' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// The lines of a page that a reader is to type.
fn commands(text: &str) -> Vec<Vec<String>> {
    let typed = text.lines().filter_map(|line| line.strip_prefix("$ "));
    typed.map(words).collect()
}

#[test]
fn every_command_of_the_tutorials_is_one() {
    let mut of_fndm = 0;
    for page in pages().iter().filter(|page| page.starts_with("tutorials/")) {
        let text = read(&root().join("docs").join(page));
        assert!(
            !text.contains("@@"),
            "{page}: a place that was never filled"
        );
        for command in commands(&text) {
            let [first, rest @ ..] = &command[..] else {
                panic!("{page}: an empty command");
            };
            match first.as_str() {
                "fndm" => {
                    of_fndm += 1;
                    let parsed = Program::try_parse_from(&command);
                    assert!(parsed.is_ok(), "{page}: {command:?}: {:?}", parsed.err());
                }
                "cargo" => {
                    let named = rest.iter().position(|word| word == "--example");
                    if let Some(name) = named.and_then(|at| rest.get(at + 1)) {
                        let file = root().join("examples").join(format!("{name}.rs"));
                        assert!(file.is_file(), "{page}: no example {name}");
                    }
                }
                "ls" | "head" => {}
                other => panic!("{page}: {other}: not known to this test"),
            }
        }
    }
    assert!(of_fndm >= 8, "{of_fndm} commands");
}

#[test]
fn indented_commands_of_the_book_are_commands() {
    for page in ["checking.md", "model-folder.md"] {
        let text = read(&root().join("docs").join(page));
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("    fndm "));
        let mut count = 0;
        for line in lines.filter(|line| !line.contains("...")) {
            // Two spaces and more stand before words about it.
            let command = line.split("  ").next().unwrap_or_default();
            let command = words(&format!("fndm {command}"));
            let parsed = Program::try_parse_from(&command);
            assert!(parsed.is_ok(), "{page}: {command:?}: {:?}", parsed.err());
            count += 1;
        }
        assert!(count >= 2, "{page}");
    }
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_somewhere() {
    let docs = root().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    let pages = pages();
    for page in pages.iter().filter(|page| *page != "SUMMARY.md") {
        assert!(
            summary.contains(&format!("({page})")),
            "{page} is not in SUMMARY.md"
        );
    }
    for page in &pages {
        let path = docs.join(page);
        let text = read(&path);
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let place = path.parent().unwrap().join(target);
            assert!(place.exists(), "{page}: {target} leads nowhere");
            // A book that is built has nothing of what lies around docs.
            let inside = place.canonicalize().unwrap();
            assert!(
                inside.starts_with(docs.canonicalize().unwrap()) && target != "SUMMARY.md",
                "{page}: {target} isn't in the book: name the file in words"
            );
        }
    }
}
