//! Owns what can be left out of checkpoints to measure what it is worth: `[ablation]` in the configuration of an agent that was
//! built with the feature of that name, which what is shipped never is. Without it nothing can be left out, and a
//! configuration that asks for it is refused.

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "ablation", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Piece {
    /// Pages as what changed, and leaving out those that did not: each page is sent whole, zero or packed by itself.
    Deltas,
    /// Copying pages while the guest still runs.
    Ahead,
    /// Walking the page tables of a large memory by several threads.
    #[cfg(feature = "ablation")]
    Walkers,
}

#[cfg(not(feature = "ablation"))]
mod choice {
    /// Nothing is left out.
    pub const fn without(_: super::Piece) -> bool {
        false
    }
}

#[cfg(feature = "ablation")]
mod choice {
    use super::Piece;
    use std::sync::OnceLock;

    static LEFT_OUT: OnceLock<Vec<Piece>> = OnceLock::new();

    /// The section of the configuration.
    #[derive(Debug, Clone, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Ablation {
        without: Vec<Piece>,
    }

    impl Ablation {
        /// Leaves it out from now on, in all of this process.
        pub fn begin(&self) {
            tracing::warn!(without = ?self.without, "this agent is a measurement, not for use");
            // An agent starts once.
            let _ = LEFT_OUT.set(self.without.clone());
        }
    }

    /// Whether it is left out.
    pub fn without(piece: Piece) -> bool {
        LEFT_OUT.get().is_some_and(|pieces| pieces.contains(&piece))
    }
}

#[cfg(feature = "ablation")]
pub use choice::Ablation;
pub use choice::without;
