//! Which of a PyTorch file's dictionaries is the state dict.
//!
//! Trainers save a state dict by itself, or in a dictionary beside whatever else a run needs: the best accuracy, states of random
//! generators, an optimiser with moments under the numbers of its parameters, averages. The state dict is the one dictionary that
//! holds weights. Where several do, they are named, and none is taken.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use super::pickle::{Id, Machine, Node, TensorInfo, shortened};
use crate::{Error, Result};

/// Dictionaries in dictionaries that are looked into.
const DEPTH: usize = 4;
/// Names in a message.
const NAMED: usize = 10;
/// The key of the file's own dictionary.
const TOP: &str = ".";
/// Between the keys of dictionaries in each other.
const BELOW: char = '/';

pub(crate) type Infos = BTreeMap<String, Rc<TensorInfo>>;

/// A dictionary that has tensors by name.
struct Candidate {
    /// The keys that lead to it.
    key: String,
    id: Id,
    /// Whether one of them could be a weight: real numbers, and more than one. Accuracies and states of generators aren't.
    weights: bool,
    /// Whether a name has a dot, as those of a network's parts do.
    dotted: bool,
}

/// What a file holds.
#[derive(Default)]
struct Found {
    /// By their depth: the file's own dictionary, those in it, and so on.
    levels: Vec<Vec<Candidate>>,
    /// Where tensors stand without names.
    nameless: Vec<String>,
}

/// The tensors of the state dict: of the dictionary that `key` leads to, or of the only one that holds weights.
pub(crate) fn state_dict(
    path: &Path,
    machine: &Machine,
    root: Id,
    key: Option<&str>,
) -> Result<Infos> {
    let bad = |e: String| Error::malformed(path, format!("PyTorch: {e}"));
    let Node::Dict(_) = machine.node(root) else {
        return Err(bad("expected a dictionary of tensors".to_owned()));
    };
    let id = match key {
        Some(key) => find(machine, root, key).ok_or_else(|| {
            let found = look(machine, root);
            let all: Vec<&Candidate> = found.levels.iter().flatten().collect();
            bad(format!(
                "no dictionary of tensors under {}; there is: {}",
                shortened(key),
                names(&all)
            ))
        })?,
        None => choose(&look(machine, root)).map_err(bad)?,
    };
    let Node::Dict(items) = machine.node(id) else {
        return Ok(Infos::new());
    };
    // Whoever drops one of these loses a part of a network.
    let nameless: Vec<String> = items
        .iter()
        .filter(|(key, value)| {
            matches!(machine.node(*value), Node::Tensor(_)) && machine.text(*key).is_none()
        })
        .map(|(key, _)| shown(machine, *key))
        .collect();
    if !nameless.is_empty() {
        return Err(bad(format!(
            "expected names of tensors, got keys that aren't text: {}",
            listed(&nameless)
        )));
    }
    Ok(tensors(machine, items)
        .map(|(name, info)| (name.to_owned(), info.clone()))
        .collect())
}

/// The dictionary under this key, which may be several keys in a row, if it has tensors by name.
fn find(machine: &Machine, root: Id, key: &str) -> Option<Id> {
    let below = |id: Id, key: &str| match machine.node(id) {
        // Of equal keys the last counts, as in Python.
        Node::Dict(items) => items
            .iter()
            .rev()
            .find(|(k, _)| machine.text(*k) == Some(key))
            .map(|(_, value)| *value),
        _ => None,
    };
    let id = if key == TOP {
        root
    } else if let Some(id) = below(root, key) {
        id
    } else {
        key.split(BELOW).try_fold(root, below)?
    };
    match machine.node(id) {
        Node::Dict(items) if items.iter().any(|(_, v)| is_tensor(machine, *v)) => Some(id),
        _ => None,
    }
}

fn is_tensor(machine: &Machine, id: Id) -> bool {
    matches!(machine.node(id), Node::Tensor(_))
}

/// Every dictionary that names lead to, once.
fn look(machine: &Machine, root: Id) -> Found {
    let mut found = Found::default();
    let mut seen = HashSet::from([root]);
    let mut level = vec![(String::new(), root)];
    for _ in 0..=DEPTH {
        let mut candidates = Vec::new();
        let mut next = Vec::new();
        for (key, id) in level {
            let Node::Dict(items) = machine.node(id) else {
                continue;
            };
            let own = if key.is_empty() { TOP } else { &key };
            candidates.extend(candidate(machine, own, id, items));
            let nameless = |(k, v): &(Id, Id)| machine.text(*k).is_none() && is_tensor(machine, *v);
            if items.iter().any(nameless) {
                found
                    .nameless
                    .push(format!("{} (keys that aren't text)", shortened(own)));
            }
            for (k, value) in items {
                let Some(name) = machine.text(*k) else {
                    continue;
                };
                let below = || match key.as_str() {
                    "" => name.to_owned(),
                    // A message shows little of it, and a key is no longer than that for anyone.
                    key => format!("{}{BELOW}{}", shortened(key), shortened(name)),
                };
                match machine.node(*value) {
                    Node::Dict(_) if seen.insert(*value) => next.push((below(), *value)),
                    Node::List(list) | Node::Tuple(list)
                        if list.iter().any(|v| is_tensor(machine, *v)) =>
                    {
                        found
                            .nameless
                            .push(format!("{} (a list)", shortened(&below())));
                    }
                    _ => {}
                }
            }
        }
        found.levels.push(candidates);
        level = next;
    }
    found
}

fn candidate(machine: &Machine, key: &str, id: Id, items: &[(Id, Id)]) -> Option<Candidate> {
    let mut all = tensors(machine, items).peekable();
    all.peek()?;
    let (mut weights, mut dotted) = (false, false);
    for (name, info) in all {
        let real = info.storage.kind.dtype.is_some_and(|d| d.is_float());
        let several = info.shape.iter().any(|n| *n != 1);
        weights |= real && several;
        dotted |= name.contains('.');
    }
    Some(Candidate {
        key: key.to_owned(),
        id,
        weights,
        dotted,
    })
}

fn choose(found: &Found) -> std::result::Result<Id, String> {
    let mut levels = found.levels.iter();
    let top = levels.next().and_then(|l| l.first());
    let weights = |l: &'_ Vec<Candidate>| l.iter().any(|c| c.weights);
    let below: Vec<&Candidate> = match levels.clone().find(|l| weights(l)) {
        Some(level) => level.iter().filter(|c| c.weights).collect(),
        None => Vec::new(),
    };
    let directly = found.levels.get(1).is_some_and(weights);
    match (top.filter(|t| t.weights), below.as_slice()) {
        (None, [one]) => Ok(one.id),
        (None, []) => {
            // Nothing looks like weights: what there is may be taken if it is the only one.
            let all: Vec<&Candidate> = found.levels.iter().flatten().collect();
            match (top, all.as_slice()) {
                (Some(top), _) => Ok(top.id),
                (None, [one]) => Ok(one.id),
                (None, []) if found.nameless.is_empty() => {
                    Err("the dictionary has no tensors".to_owned())
                }
                (None, []) => Err(format!(
                    "the dictionary has no tensors by name; without names there are some in: {}",
                    listed(&found.nameless)
                )),
                (None, several) => Err(ambiguous(several)),
            }
        }
        (Some(top), []) => Ok(top.id),
        // A state dict by itself, with an optimiser somewhere in it.
        (Some(top), _) if top.dotted && !directly => Ok(top.id),
        // The names of a network's parts, beside tensors that have none such: a history, a schedule.
        (Some(top), [one]) if !top.dotted && one.dotted => Ok(one.id),
        (Some(top), several) => {
            let all: Vec<&Candidate> = [top].into_iter().chain(several.iter().copied()).collect();
            Err(ambiguous(&all))
        }
        (None, several) => Err(ambiguous(several)),
    }
}

fn ambiguous(candidates: &[&Candidate]) -> String {
    let top = candidates.iter().any(|c| c.key == TOP);
    format!(
        "several dictionaries of tensors, name one of them: {}{}",
        names(candidates),
        if top { " (. is the file's own)" } else { "" }
    )
}

fn names(candidates: &[&Candidate]) -> String {
    let mut all: Vec<String> = candidates.iter().map(|c| shortened(&c.key)).collect();
    all.sort();
    listed(&all)
}

fn listed(all: &[String]) -> String {
    let mut some: Vec<String> = all.iter().take(NAMED).cloned().collect();
    if all.len() > NAMED {
        some.push(format!("{} more", all.len() - NAMED));
    }
    some.join(", ")
}

/// A key that isn't text, for a message.
fn shown(machine: &Machine, key: Id) -> String {
    match machine.node(key) {
        Node::Int(n) => n.to_string(),
        Node::None => "None".to_owned(),
        Node::Bool => "a bool".to_owned(),
        Node::Float => "a float".to_owned(),
        Node::Tuple(_) => "a tuple".to_owned(),
        _ => "an object".to_owned(),
    }
}

fn tensors<'a>(
    machine: &'a Machine,
    items: &'a [(Id, Id)],
) -> impl Iterator<Item = (&'a str, &'a Rc<TensorInfo>)> {
    items
        .iter()
        .filter_map(|(key, value)| match machine.node(*value) {
            Node::Tensor(info) => Some((machine.text(*key)?, info)),
            _ => None,
        })
}
