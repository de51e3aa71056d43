//! Room for one value of a type, filled as that type.

use crate::error::{Error, Result};
use crate::loan::Loan;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A [`Loan`] that is a `T`; made by [`Publisher::loan_as`](crate::Publisher::loan_as).
#[derive(Debug)]
pub struct LoanAs<T> {
    loan: Loan,
    as_type: PhantomData<fn() -> T>,
}

impl<T: FromBytes + IntoBytes + KnownLayout + Immutable> LoanAs<T> {
    pub(crate) fn new(mut loan: Loan) -> Result<Self> {
        // A loan in own memory may lie at any address; one in the ring is aligned to 64.
        if T::mut_from_bytes(&mut loan).is_err() {
            let reason = "its alignment is more than a loan has".into();
            return Err(Error::Payload { what: std::any::type_name::<T>(), reason });
        }
        Ok(Self { loan, as_type: PhantomData })
    }

    /// As [`Loan::send`].
    ///
    /// # Errors
    /// As [`Loan::send`].
    pub fn send(self) -> Result<u64> {
        self.loan.send()
    }
}

impl<T: FromBytes + IntoBytes + KnownLayout + Immutable> Deref for LoanAs<T> {
    type Target = T;

    fn deref(&self) -> &T {
        T::ref_from_bytes(&self.loan).expect("its size and address were checked when it was made")
    }
}

impl<T: FromBytes + IntoBytes + KnownLayout + Immutable> DerefMut for LoanAs<T> {
    fn deref_mut(&mut self) -> &mut T {
        T::mut_from_bytes(&mut self.loan).expect("its size and address were checked when it was made")
    }
}
