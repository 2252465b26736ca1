//! A server that prepares a case and times it, one JSON request a line; `driver.py` is the client.
//!
//! | request | answer |
//! | --- | --- |
//! | `{"op":"prepare","topic":T,"spec":{...}}` | `{"ok":true}` |
//! | `{"op":"run","inner":N}` | `{"ms":M}`, for one of N runs in a row |
//! | `{"op":"check"}` | `{"values":[...]}` |
//!
//! A request that fails is answered by `{"error":"..."}`.

mod inputs;
mod parameters;
mod topics;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Instant;
use topics::Case;

#[global_allocator]
static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();

fn answer(line: &str, case: &mut Option<Box<dyn Case>>) -> Result<Value> {
    let request: Value = serde_json::from_str(line).context("not a line of JSON")?;
    let op = request["op"].as_str().unwrap_or_default();
    if op == "prepare" {
        let topic = request["topic"].as_str().unwrap_or_default();
        *case = None;
        *case = Some(topics::prepare(topic, &request["spec"])?);
        return Ok(json!({"ok": true}));
    }
    let case = case.as_mut().context("no case is prepared")?;
    match op {
        "run" => {
            let inner = request["inner"].as_u64().unwrap_or(1).max(1);
            let start = Instant::now();
            for _ in 0..inner {
                case.run()?;
            }
            let ms = start.elapsed().as_secs_f64() * 1e3 / inner as f64;
            Ok(json!({"ms": ms}))
        }
        "check" => Ok(json!({"values": case.check()?})),
        _ => bail!("unknown op {op:?}"),
    }
}

fn main() -> Result<()> {
    let mut case = None;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let reply =
            answer(&line?, &mut case).unwrap_or_else(|e| json!({"error": format!("{e:#}")}));
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}
