//! The section of the effects that contracts declare.

use super::Section;
use crate::partners::{
    Partner,
    effects::{Client, Effects},
};

impl Section for Effects {
    fn open(self) -> anyhow::Result<Effects> {
        self.opened()
    }

    fn partners(&self) -> Vec<Partner> {
        self.clients().values().map(Client::partner).collect()
    }
}
