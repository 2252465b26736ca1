//! Threads of one process that train together, as processes would.

use std::sync::{Arc, Barrier, Mutex};

use fndm_train::{Group, Result};

#[derive(Debug)]
struct Meeting {
    barrier: Barrier,
    floats: Mutex<Vec<Vec<f32>>>,
    doubles: Mutex<Vec<Vec<f64>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct ThreadGroup {
    rank: usize,
    size: usize,
    meeting: Arc<Meeting>,
}

impl ThreadGroup {
    pub(crate) fn all(size: usize) -> Vec<Self> {
        let meeting = Arc::new(Meeting {
            barrier: Barrier::new(size),
            floats: Mutex::new(vec![Vec::new(); size]),
            doubles: Mutex::new(vec![Vec::new(); size]),
        });
        (0..size)
            .map(|rank| Self {
                rank,
                size,
                meeting: meeting.clone(),
            })
            .collect()
    }

    fn exchange<T: Clone>(&self, place: &Mutex<Vec<Vec<T>>>, own: &[T]) -> Vec<Vec<T>> {
        place.lock().unwrap()[self.rank] = own.to_vec();
        self.meeting.barrier.wait();
        let all = place.lock().unwrap().clone();
        self.meeting.barrier.wait();
        all
    }
}

impl Group for ThreadGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f32]) -> Result<()> {
        let all = self.exchange(&self.meeting.floats, values);
        for (i, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|other| other[i]).sum();
        }
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>> {
        Ok(self.exchange(&self.meeting.doubles, values).concat())
    }
}
