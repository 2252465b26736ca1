//! Two processes under `mpirun` give what one process gives. Built with the cargo feature `mpi` alone.

#[cfg(not(feature = "mpi"))]
#[test]
fn two_processes_under_mpirun() {
    println!("skipped: built without the feature mpi");
}

#[cfg(feature = "mpi")]
mod common;

#[cfg(feature = "mpi")]
mod with_mpi {
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;

    use candle_core::Device;
    use fndm_train::{
        DiffusionConfig, DiffusionTrainer, Group, MpiGroup, RunConfig, StopFlag, list_checkpoints,
        run,
    };

    use crate::common::{diffusion_config, largest_difference, slices, unet};

    const FOLDER: &str = "FNDM_TRAIN_TEST_FOLDER";

    fn trainer() -> DiffusionTrainer {
        let mut config = diffusion_config();
        // So that a step is a smooth function of the gradient: see group.rs.
        config.optimizer.eps = 1e-3;
        let config = DiffusionConfig {
            batch: 4,
            accumulation: 2,
            iterations: Some(6),
            ..config
        };
        DiffusionTrainer::new(&config, &unet(), slices(6), 11, &Device::Cpu).unwrap()
    }

    fn place(folder: &Path) -> RunConfig {
        RunConfig {
            folder: folder.to_owned(),
            checkpoint_every: 3,
            ..RunConfig::default()
        }
    }

    /// Not a test of its own: what each process runs.
    #[test]
    #[ignore = "run by the test that starts it"]
    fn child() {
        let Some(folder) = std::env::var_os(FOLDER) else {
            return;
        };
        let group = Arc::new(MpiGroup::new().unwrap());
        println!("process {} of {}", group.rank(), group.size());
        assert_eq!(group.size(), 2);
        let mut trainer = trainer().in_group(group).unwrap();
        run(
            &mut trainer,
            &place(Path::new(&folder)),
            &StopFlag::new(),
            |_, _| {},
        )
        .unwrap();
    }

    #[test]
    fn two_processes_under_mpirun() {
        let folder = tempfile::tempdir().unwrap();
        let started = Command::new("mpirun")
            // OpenMPI's way of saying what MPICH does anyway: more processes than cores, and a test run as root in a container.
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
            .env(FOLDER, folder.path())
            .args(["-n", "2"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "with_mpi::child", "--ignored", "--nocapture"])
            .output();
        let output = match started {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: mpirun is missing");
                return;
            }
            other => other.unwrap(),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for line in ["process 0 of 2", "process 1 of 2"] {
            assert!(text.contains(line), "{text}");
        }
        let names: Vec<_> = list_checkpoints(folder.path()).unwrap();
        assert_eq!(names.len(), 2, "{names:?}");
        let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 6, "one process writes the log");

        let mut alone = trainer();
        (0..6).for_each(|_| drop(alone.step().unwrap()));
        let mut both = trainer();
        both.resume(folder.path()).unwrap();
        assert_eq!(both.iteration(), 6);
        let worst = largest_difference(&both.weights().unwrap(), &alone.weights().unwrap());
        println!("two processes and one: worst difference of a weight {worst:.1e}");
        assert!(worst < 1e-6, "{worst}");
    }
}
