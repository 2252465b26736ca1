//! The kernels' text compiled by a C++ compiler, and run thread by thread: the programs without a GPU.

mod not_finite;
mod tests;

use super::machine::{Arg, Kind, Launch, Machine, Matrix, Product, View};
use super::source::{SOURCES, prelude};
use candle_core::Result;
use half::bf16;
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;

/// Undefined behaviour ends the emulator; sums are those that the text says.
const FLAGS: [&str; 10] = [
    "-std=c++17",
    "-O2",
    "-U_FORTIFY_SOURCE",
    "-fno-strict-aliasing",
    "-fsanitize=undefined",
    "-fno-sanitize=vptr",
    "-fno-sanitize-recover=all",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
];

/// The program, or why there is none.
static PROGRAM: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();

/// Compiles the emulator, unless an earlier run has compiled the same text.
fn compile() -> std::result::Result<PathBuf, String> {
    let mut kernels = format!("{}\n", prelude());
    for source in &SOURCES {
        let (name, text) = (source.name, source.own_text());
        kernels += &format!("#line 1 \"{name}.cu\"\n{text}\n");
    }
    let names = SOURCES.iter().flat_map(super::source::Source::names);
    let names: Vec<String> = names.map(|n| format!("KERNEL({n})")).collect();
    let files = [
        ("shim.hpp", include_str!("shim.hpp").to_string()),
        ("machine.cpp", include_str!("machine.cpp").to_string()),
        ("kernels.inc", kernels),
        ("names.inc", names.join("\n")),
    ];
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let mut hasher = DefaultHasher::new();
    (&files, &compiler, FLAGS).hash(&mut hasher);
    let name = format!("fndm-cuda-emulator-{:016x}", hasher.finish());
    let folder = std::env::temp_dir().join(name);
    let program = folder.join("machine");
    if program.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let temporary = format!("machine.{}", std::process::id());
    let output = Command::new(&compiler)
        .current_dir(&folder)
        .args(FLAGS)
        .args(["-o", &temporary, "machine.cpp"])
        .output()
        .map_err(|e| format!("no C++ compiler ({compiler}): {e}"))?;
    assert!(
        output.status.success(),
        "the kernels don't compile:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::rename(folder.join(temporary), &program).map_err(|e| e.to_string())?;
    Ok(program)
}

/// Tells that tests are left out. The harness swallows what a passing test prints, so this goes to the stream itself.
fn left_out(why: &str) {
    assert!(
        !in_ci(std::env::var_os("CI").as_deref()),
        "the kernels for CUDA can't be run here: {why}"
    );
    let message = format!("\nLEFT OUT: the kernels for CUDA weren't run: {why}\n");
    _ = std::io::stderr().write_all(message.as_bytes());
}

/// Whether the variable `CI` says so.
fn in_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|v| !v.is_empty() && v != "0" && v != "false")
}

struct Process {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Process {
    fn numbers(&mut self, numbers: &[u64]) -> Result<()> {
        for n in numbers {
            self.input.write_all(&n.to_le_bytes())?;
        }
        Ok(())
    }

    fn read(&mut self, n: usize) -> Result<Vec<u8>> {
        self.input.flush()?;
        let mut bytes = vec![0; n];
        self.output.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// An error where the other side has one.
    fn done(&mut self) -> Result<()> {
        let n = self.read(8)?;
        let n = u64::from_le_bytes(n.try_into().unwrap_or_default());
        let fault = self.read(n as usize)?;
        if fault.is_empty() {
            return Ok(());
        }
        candle_core::bail!("{}", String::from_utf8_lossy(&fault))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An emulated GPU.
pub(crate) struct Emulator {
    process: Rc<RefCell<Process>>,
    /// How threads and blocks take turns.
    order: Cell<u64>,
}

/// A buffer of the emulated GPU.
pub(crate) struct Buffer {
    process: Rc<RefCell<Process>>,
    id: u64,
    kind: Kind,
    len: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        _ = self.process.borrow_mut().numbers(&[b'd'.into(), self.id]);
    }
}

impl Emulator {
    /// `None`, said past the test harness, where there is no C++ compiler.
    ///
    /// # Panics
    /// In continuous integration (`CI` in the environment), where nothing may be left out.
    pub(crate) fn start(order: u64) -> Option<Self> {
        let program = match PROGRAM.get_or_init(compile) {
            Ok(program) => program,
            Err(why) => {
                left_out(why);
                return None;
            }
        };
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the emulator starts");
        let input = BufWriter::new(child.stdin.take().expect("an input"));
        let output = BufReader::new(child.stdout.take().expect("an output"));
        let process = Process {
            child,
            input,
            output,
            next: 1,
        };
        Some(Self {
            process: Rc::new(RefCell::new(process)),
            order: Cell::new(order),
        })
    }

    fn write(&self, kind: Kind, len: usize, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.alloc(kind, len)?;
        let mut process = self.process.borrow_mut();
        process.numbers(&[b'w'.into(), buffer.id, bytes.len() as u64])?;
        process.input.write_all(bytes)?;
        drop(process);
        Ok(buffer)
    }

    /// Floats as values of this kind.
    pub(crate) fn floats(&self, kind: Kind, values: &[f32]) -> Buffer {
        let bytes: Vec<u8> = match kind {
            Kind::Bf16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        self.write(kind, values.len(), &bytes).expect("room")
    }

    /// What a buffer holds, as floats.
    pub(crate) fn read(&self, buffer: &Buffer) -> Vec<f32> {
        let bytes = self.bytes(buffer);
        match buffer.kind {
            Kind::Bf16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32())
                .collect(),
            _ => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        }
    }

    pub(crate) fn bytes(&self, buffer: &Buffer) -> Vec<u8> {
        let mut process = self.process.borrow_mut();
        process
            .numbers(&[b'r'.into(), buffer.id])
            .expect("a process");
        process
            .read(buffer.len * buffer.kind.bytes())
            .expect("the emulator answers")
    }
}

impl Machine for Emulator {
    type Memory = Buffer;

    fn alloc(&self, kind: Kind, len: usize) -> Result<Buffer> {
        let mut process = self.process.borrow_mut();
        let id = process.next;
        process.next += 1;
        process.numbers(&[b'a'.into(), id, (len * kind.bytes()) as u64])?;
        Ok(Buffer {
            process: self.process.clone(),
            id,
            kind,
            len,
        })
    }

    fn upload(&self, values: &[u32]) -> Result<Buffer> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.write(Kind::U32, values.len(), &bytes)
    }

    fn addresses(&self, views: &[View]) -> Result<Buffer> {
        let buffer = self.alloc(Kind::U64, views.len())?;
        let mut process = self.process.borrow_mut();
        process.numbers(&[b'p'.into(), buffer.id, views.len() as u64])?;
        for view in views {
            process.numbers(&[view.address])?;
        }
        drop(process);
        Ok(buffer)
    }

    fn view(&self, memory: &Buffer) -> View {
        View {
            address: memory.id << 40,
            kind: memory.kind,
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut process = self.process.borrow_mut();
        process.numbers(&[b'l'.into(), launch.kernel.len() as u64])?;
        process.input.write_all(launch.kernel.as_bytes())?;
        let (blocks, threads) = (launch.blocks.into(), launch.threads.into());
        let count = launch.args.len() as u64;
        process.numbers(&[blocks, threads, self.order.get(), count])?;
        for arg in launch.args {
            let (kind, bits) = match *arg {
                Arg::View(v) => (b'p', v.address),
                Arg::U32(v) => (b'u', v.into()),
                Arg::U64(v) => (b'l', v),
                Arg::F32(v) => (b'f', v.to_bits().into()),
            };
            process.numbers(&[kind.into(), bits])?;
        }
        process.done()
    }

    fn product(&self, p: &Product) -> Result<()> {
        let mut process = self.process.borrow_mut();
        let n = |n: usize| n as u64;
        let narrow = |v: &Matrix| u64::from(v.at.kind == Kind::Bf16);
        assert_eq!(p.a.at.kind, p.b.at.kind);
        process.numbers(&[
            b'g'.into(),
            p.a.transposed.into(),
            p.b.transposed.into(),
            n(p.m),
            n(p.n),
            n(p.k),
            n(p.batch),
            narrow(&p.a),
            narrow(&p.c),
            p.alpha.to_bits().into(),
        ])?;
        for matrix in [&p.a, &p.b, &p.c] {
            process.numbers(&[matrix.at.address, n(matrix.column), n(matrix.step)])?;
        }
        process.done()
    }
}

#[test]
fn only_continuous_integration_insists_on_a_compiler() {
    for (value, insists) in [
        (None, false),
        (Some(""), false),
        (Some("0"), false),
        (Some("false"), false),
        (Some("1"), true),
        (Some("true"), true),
    ] {
        assert_eq!(in_ci(value.map(OsStr::new)), insists, "{value:?}");
    }
}
