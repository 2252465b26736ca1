//! `mpirun fndm train`: the weights of one process, and a signal to any process stops all. Built with the feature `mpi` alone.

#[cfg(not(all(feature = "mpi", target_os = "linux")))]
#[test]
fn a_training_under_mpirun() {
    println!("skipped: built without the feature mpi, or not on Linux");
}

#[cfg(all(feature = "mpi", target_os = "linux"))]
mod with_mpi {
    use std::fs;
    use std::io::ErrorKind;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::time::{Duration, Instant};

    use fndm::models::{Limits, StateDict};

    /// Adam's first steps are of one length whatever the gradient; with a large epsilon a step is a smooth function of it, and rounding
    /// stays rounding.
    const SMOOTH: &str = r#"{"diffusion_training": {"optimizer": {"eps": 1e-3}}, "classifier_training": {"optimizer": {"eps": 1e-3}}}"#;

    fn arguments<'a>(output: &'a str, iterations: &'a str) -> Vec<&'a str> {
        let text = "train --phantom 2 --width 32 --feature-blocks 2 --batch 4 --classifier-batch 4 --classifier-iterations 3";
        let mut all: Vec<&str> = text.split(' ').collect();
        all.extend([
            "--iterations",
            iterations,
            "--plan",
            SMOOTH,
            "--output",
            output,
        ]);
        all
    }

    fn alone(folder: &Path, output: &str, iterations: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fndm"));
        command
            .current_dir(folder)
            .args(arguments(output, iterations));
        let ran = command.output().unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }

    fn mpirun(folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("mpirun");
        command
            // OpenMPI's way of saying what MPICH does anyway: more processes than cores, and a test run as root in a container.
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .env("OMPI_MCA_odls_base_sigkill_timeout", "60")
            .env("RAYON_NUM_THREADS", "1")
            .current_dir(folder)
            .args(["-n", "2"])
            .arg(env!("CARGO_BIN_EXE_fndm"))
            .args(arguments)
            .arg("--mpi");
        command
    }

    /// None where there is no mpirun.
    fn output(command: &mut Command) -> Option<Output> {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("skipped: mpirun is missing");
                None
            }
            ran => Some(ran.unwrap()),
        }
    }

    /// The largest difference of a weight, in units in the last place of half precision, in which weights are stored.
    fn worst(a: &Path, b: &Path) -> f32 {
        let read = |folder: &Path| {
            StateDict::read(folder.join("unet.safetensors"), &Limits::default()).unwrap()
        };
        let (a, b) = (read(a), read(b));
        let values = |state: &StateDict| -> Vec<f32> {
            let flat = state.tensors().values().flat_map(|tensor| {
                let tensor = tensor.to_dtype(fndm::candle_core::DType::F32).unwrap();
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            });
            flat.collect()
        };
        let (a, b) = (values(&a), values(&b));
        assert_eq!(a.len(), b.len());
        let pairs = a.iter().zip(&b);
        let units =
            pairs.map(|(a, b)| (a - b).abs() / a.abs().max(b.abs()).max(2f32.powi(-14)) * 1024.);
        units.fold(0., f32::max)
    }

    #[test]
    fn a_training_under_mpirun() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let Some(ran) = output(&mut mpirun(root, &arguments("two", "4"))) else {
            return;
        };
        let words = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success(),
            "{words}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        assert_eq!(
            words.matches("4 iterations").count(),
            1,
            "one process tells: {words}"
        );
        let log = fs::read_to_string(root.join("two/training/diffusion/log.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 4, "one process writes the log");
        alone(root, "one", "4");
        let worst = worst(&root.join("one"), &root.join("two"));
        println!("two processes and one: {worst:.1} units in the last place");
        assert!(worst <= 2., "{worst}");
        // What one process alone can do is told before MPI is started.
        let ran = output(&mut mpirun(
            root,
            &[
                "train",
                "--phantom",
                "2",
                "--student-alone",
                "--output",
                "x",
            ],
        ))
        .unwrap();
        assert!(!ran.status.success());
        assert!(String::from_utf8_lossy(&ran.stderr).contains("--student-alone"));
        assert!(!root.join("x").exists());
    }

    /// The processes of a folder that are of this rank.
    fn of_rank(root: &Path, rank: &str) -> Option<String> {
        fs::read_dir("/proc").unwrap().find_map(|entry| {
            let path = entry.ok()?.path();
            let environment = fs::read(path.join("environ")).ok()?;
            let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
            let is = environment
                .split(|&byte| byte == 0)
                .any(|v| v == wanted.as_bytes());
            let here = fs::read_link(path.join("cwd")).ok()? == root;
            let program =
                fs::read_link(path.join("exe")).ok()? == Path::new(env!("CARGO_BIN_EXE_fndm"));
            (is && here && program)
                .then(|| path.file_name().map(|n| n.to_string_lossy().into_owned()))?
        })
    }

    #[test]
    fn a_signal_to_one_process_stops_all() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut command = mpirun(&root, &arguments("out", "100000"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("skipped: mpirun is missing");
                return;
            }
            child => child.unwrap(),
        };
        let log = root.join("out/training/diffusion/log.jsonl");
        let begun = Instant::now();
        while fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(120));
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(20));
        }
        let process = of_rank(&root, "1").expect("a process of rank 1");
        assert!(
            Command::new("kill")
                .args(["-TERM", &process])
                .status()
                .unwrap()
                .success()
        );
        let ran = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success(),
            "{words}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        assert!(
            words.contains("run the same command again to go on"),
            "{words}"
        );
        let names = fs::read_dir(root.join("out/training/diffusion")).unwrap();
        let checkpoints = names.filter(|name| {
            let name = name.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("step-")
        });
        assert!(checkpoints.count() > 0);
    }
}
