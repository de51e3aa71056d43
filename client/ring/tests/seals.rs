//! What nobody can do to shared memory once it is sealed, and what is not believed to be such memory.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use tramline_ring::{ReaderLink, RingIdentity, RingSpec, Writer, verify_page, verify_ring};

fn ring() -> (Writer, RingIdentity) {
    let spec = RingSpec::sized(3, 1000, 8).unwrap();
    (Writer::create(&spec, 8).unwrap(), spec.identity())
}

fn map(fd: &impl AsFd, access: ProtFlags, flags: MapFlags) -> rustix::io::Result<*mut std::ffi::c_void> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, access, flags, fd, 0) }
}

#[test]
fn sealed_memory_cannot_be_resized_or_written_by_anyone() {
    let (writer, identity) = ring();
    let fd = writer.memory();
    verify_ring(fd, &identity).unwrap();
    let size = identity.memory_bytes().unwrap();
    assert_eq!(rustix::fs::ftruncate(fd, 0), Err(Errno::PERM), "shrink");
    assert_eq!(rustix::fs::ftruncate(fd, size * 2), Err(Errno::PERM), "grow");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(fd, punch, 0, 4096), Err(Errno::PERM), "punch a hole");
    assert_eq!(rustix::fs::fallocate(fd, FallocateFlags::empty(), size, 4096), Err(Errno::PERM), "extend");
    assert_eq!(rustix::io::pwrite(fd, b"x", 0), Err(Errno::PERM), "write");
    assert_eq!(
        map(&fd, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED).err(),
        Some(Errno::PERM),
        "map writable"
    );
    assert_eq!(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE), Err(Errno::PERM), "seal further");

    let readable = map(&fd, ProtFlags::READ, MapFlags::SHARED).unwrap();
    // SAFETY: the range is the mapping made above, which nothing else refers to.
    let widened = unsafe { rustix::mm::mprotect(readable, 4096, MprotectFlags::READ | MprotectFlags::WRITE) };
    assert_eq!(widened, Err(Errno::ACCESS), "mprotect");
    // SAFETY: as above.
    let removed = unsafe { rustix::mm::madvise(readable, 4096, rustix::mm::Advice::LinuxRemove) };
    assert!(removed.is_err(), "MADV_REMOVE");
    // SAFETY: as above; not used afterwards.
    unsafe { rustix::mm::munmap(readable, 4096) }.unwrap();
}

#[test]
fn reopening_through_proc_opens_no_way_around_the_seals() {
    let (writer, _) = ring();
    let path = format!("/proc/self/fd/{}", writer.memory().as_raw_fd());
    let Ok(again) = rustix::fs::open(path, OFlags::RDWR, Mode::empty()) else { return };
    assert_eq!(rustix::fs::ftruncate(&again, 0), Err(Errno::PERM));
    assert_eq!(rustix::io::pwrite(&again, b"x", 0), Err(Errno::PERM));
    assert_eq!(map(&again, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED).err(), Some(Errno::PERM));
}

fn memfd(name: &str, flags: MemfdFlags) -> OwnedFd {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | flags).unwrap()
}

const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

fn refused(fd: impl AsFd, identity: &RingIdentity, why: &str) {
    let error = verify_ring(fd.as_fd(), identity).expect_err(why);
    assert!(error.is_claim(), "{why}: {error}");
    assert!(verify_page(fd.as_fd(), 15).is_err(), "{why}");
}

#[test]
fn what_is_not_sealed_memory_of_the_right_size_is_refused() {
    let (writer, identity) = ring();
    let size = identity.memory_bytes().unwrap();

    let unsealed = memfd("unsealed", MemfdFlags::ALLOW_SEALING);
    rustix::fs::ftruncate(&unsealed, size).unwrap();
    rustix::fs::fallocate(&unsealed, FallocateFlags::empty(), 0, size).unwrap();
    refused(&unsealed, &identity, "no seals");
    rustix::fs::fcntl_add_seals(&unsealed, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    refused(&unsealed, &identity, "writable for others");

    let sparse = memfd("sparse", MemfdFlags::ALLOW_SEALING);
    rustix::fs::ftruncate(&sparse, size).unwrap();
    rustix::fs::fcntl_add_seals(&sparse, SEALS).unwrap();
    refused(&sparse, &identity, "holes, which readers would have to pay for");

    let larger = RingIdentity { arena_bytes: identity.arena_bytes + 4096, ..identity };
    refused(writer.memory(), &larger, "shorter than declared");
    let smaller = RingIdentity { arena_bytes: identity.arena_bytes - 4096, ..identity };
    refused(writer.memory(), &smaller, "longer than declared");
    let other = RingIdentity { stream: 4, ..identity };
    refused(writer.memory(), &other, "another stream's");
    let other = RingIdentity { generation: 1, ..identity };
    refused(writer.memory(), &other, "another generation");
    for descriptors in [0, 1, 3, 1 << 21, u32::MAX] {
        refused(
            writer.memory(),
            &RingIdentity { descriptors, ..identity },
            "an impossible number of descriptors",
        );
    }
    for arena_bytes in [0, 1, 4095, u64::MAX, u64::MAX - 4095, 1 << 40] {
        refused(writer.memory(), &RingIdentity { arena_bytes, ..identity }, "an impossible arena");
    }

    let (_, page) = ReaderLink::new().allocate_slot().unwrap();
    let page = page.unwrap();
    verify_page(page.fd.as_fd(), page.slots).unwrap();
    assert!(verify_page(page.fd.as_fd(), page.slots + 1).unwrap_err().is_claim());
    assert!(verify_ring(page.fd.as_fd(), &identity).unwrap_err().is_claim(), "a page is no ring");
}

#[test]
fn what_is_no_memfd_at_all_is_refused() {
    let (_, identity) = ring();
    let size = identity.memory_bytes().unwrap();
    refused(File::open("/proc/self/exe").unwrap(), &identity, "a regular file");
    refused(File::open("/dev/null").unwrap(), &identity, "a device");
    refused(rustix::pipe::pipe().unwrap().0, &identity, "a pipe");
    refused(std::os::unix::net::UnixStream::pair().unwrap().0, &identity, "a socket");
    let name = format!("/dev/shm/tramline-test-{}", std::process::id());
    if let Ok(file) = File::options().read(true).write(true).create_new(true).open(&name) {
        std::fs::remove_file(&name).unwrap();
        file.set_len(size).unwrap();
        refused(&file, &identity, "a file on tmpfs, which has no seals");
    }
}

#[test]
fn huge_pages_are_refused_where_the_machine_has_them() {
    let (_, identity) = ring();
    match rustix::fs::memfd_create(
        "huge",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB,
    ) {
        Ok(huge) => {
            let _ = rustix::fs::ftruncate(&huge, 2 << 20);
            rustix::fs::fcntl_add_seals(&huge, SEALS).unwrap();
            refused(&huge, &identity, "hugetlb");
        }
        Err(error) => eprintln!("NOT TRIED: this kernel makes no hugetlb memfd: {error}"),
    }
}
