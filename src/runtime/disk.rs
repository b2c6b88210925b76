//! Whether the disk of ROOT has less space free than `limits.disk_free_min`. Knows nothing of what
//! is then left undone. Invariant: asked by any number of threads, the disk is looked at once a
//! second and a warning is printed once each time it becomes full.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Console, lock};
use crate::clock;
use crate::layout::Root;
use crate::mutant::planted;

/// Bytes free do not change much faster than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct DiskCheck {
    path: PathBuf,
    /// Bytes.
    floor: u64,
    /// The last look: when, and whether space was low.
    last: Mutex<Option<(Instant, bool)>>,
}

impl DiskCheck {
    pub(crate) fn new(root: &Root, floor: u64) -> DiskCheck {
        DiskCheck {
            path: root.path().to_owned(),
            floor,
            last: Mutex::default(),
        }
    }

    /// Why nothing new should be begun, if so. Space that cannot be read counts as enough.
    pub(crate) fn is_low(&self, console: &Console) -> Option<String> {
        let why = || {
            format!(
                "less than {} MiB free on the disk of {}: nothing new is claimed until there is more",
                self.floor >> 20,
                self.path.display()
            )
        };
        if planted("disk-floor-sunk") {
            return None;
        }
        let now = clock::instant();
        let mut last = lock(&self.last);
        if let Some((at, low)) = *last
            && now - at < LOOK_EVERY
        {
            return low.then(why);
        }
        let low = fs2::available_space(&self.path).is_ok_and(|free| free < self.floor);
        let was_low = last.replace((now, low)).is_some_and(|(_, low)| low);
        drop(last);
        if low && !was_low {
            console.warn(&why());
        }
        low.then(why)
    }
}
