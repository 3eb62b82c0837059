//! What Blob Storage answers is taken for what it says: a conflict is another connector's doing
//! only where its code says so, and no answer is held or waited for without a limit.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use mimecast_sentinel::simulator::FaultPlan;
use mimecast_sentinel::store::{Lease, Store, StoreError};

use crate::support::fake_blobs::{FakeBlobs, refusal};
use crate::support::program::{Program, events, landed, simulator};

const NAME: &str = "checkpoints/mailflow.json";
const WORDS: &str = "This operation is not permitted as the blob is so and so.";

/// An account that answers `what` with this refusal.
async fn refusing(what: &'static str, status: u16, code: &'static str) -> FakeBlobs {
    FakeBlobs::start(move |asked, _| (asked == what).then(|| refusal(status, code, WORDS))).await
}

async fn lease(blobs: &FakeBlobs) -> Result<Option<Box<dyn Lease>>, StoreError> {
    blobs.store().lease(NAME).await
}

/// What comes of `what`, which is refused.
async fn outcome_of(what: &'static str, status: u16, code: &'static str) -> Result<(), StoreError> {
    let blobs = refusing(what, status, code).await;
    match what {
        "acquire" | "create" => {
            return lease(&blobs).await.map(|lease| assert!(lease.is_none(), "{code}"));
        }
        _ => {}
    }
    let mut lease = lease(&blobs).await.unwrap().unwrap();
    match what {
        "write" => {
            let written = lease.write("{}".into()).await;
            let is_lost = matches!(written, Err(StoreError::LeaseLost { .. }));
            assert_eq!(lease.held(), !is_lost, "{code}");
            written
        }
        "read" => lease.read().await.map(drop),
        "delete" => {
            lease.write("{}".into()).await.unwrap();
            lease.clear().await
        }
        "release" => lease.release().await,
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn a_conflict_that_is_nobodys_doing_is_said_in_azures_words() {
    let conflicts = [
        (409, "BlobImmutableDueToPolicy", "immutability policy"),
        (409, "InvalidBlobType", "remove it"),
        (409, "ResourceTypeMismatch", "remove it"),
        (409, "BlobArchived", "hot tier"),
        (409, "BlobBeingRehydrated", "hot tier"),
        (409, "SnapshotsPresent", "snapshots"),
        (409, "ContainerBeingDeleted", ""),
        (409, "FeatureVersionMismatch", ""),
        (400, "InvalidHeaderValue", ""),
    ];
    for (status, code, remedy) in conflicts {
        for what in ["acquire", "create", "write", "read", "delete", "release"] {
            let error = outcome_of(what, status, code).await.unwrap_err();
            assert_eq!(matches!(error, StoreError::Refused { .. }), !remedy.is_empty(), "{error}");
            let said = error.to_string();
            for part in [code, WORDS, NAME, remedy] {
                assert!(said.contains(part), "{what}: no {part:?} in {said}");
            }
        }
    }
}

#[tokio::test]
async fn a_conflict_about_the_lease_or_the_version_is_anothers_doing() {
    let lost = [
        (412, "ConditionNotMet"),
        (412, "LeaseIdMissing"),
        (412, "LeaseIdMismatchWithBlobOperation"),
        (412, "LeaseLost"),
        (412, "LeaseNotPresentWithBlobOperation"),
        (409, "LeaseIdMismatchWithLeaseOperation"),
        (404, "BlobNotFound"),
    ];
    for (status, code) in lost {
        for what in ["write", "read", "delete"] {
            let error = outcome_of(what, status, code).await.unwrap_err();
            assert!(matches!(error, StoreError::LeaseLost { .. }), "{what} {code}: {error}");
        }
        outcome_of("release", status, code).await.unwrap();
    }
    for code in ["LeaseAlreadyPresent", "LeaseIsBreakingAndCannotBeAcquired"] {
        outcome_of("acquire", 409, code).await.unwrap();
    }
    // Another has made it, and perhaps leased it, meanwhile.
    for (status, code) in [(409, "BlobAlreadyExists"), (412, "LeaseIdMissing")] {
        let blobs = refusing("create", status, code).await;
        let error = lease(&blobs).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("somebody keeps removing it"), "{code}: {error}");
    }
}

/// Where a checkpoint cannot be written over, a run finds out before it posts.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_posted_that_cannot_be_recorded() {
    for code in ["BlobImmutableDueToPolicy", "InvalidBlobType"] {
        let blobs = refusing("write", 409, code).await;
        let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
        let program = Program::of(&simulator).set("CHECKPOINT_URL", &blobs.url());
        for _ in 0..2 {
            let run = program.run(&["pull", "--json"]).await;
            run.assert_code(2).assert_stderr(&[code, WORDS]);
            assert_eq!(run.json()["streams"][1]["error"]["code"], "store-refused", "{run:#?}");
            assert_eq!(simulator.landed_count(), 0);
        }
    }
    // A run with nothing new writes no checkpoint, and its begin and its end into the history.
    let blobs = FakeBlobs::start(|_, _| None).await;
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator).set("CHECKPOINT_URL", &blobs.url());
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(&simulator), events(1));
    let writes = |of: &str| blobs.asked().iter().filter(|asked| asked.starts_with(of)).count();
    let before = [writes("write checkpoints/"), writes("write runs/")];
    program.run(&["pull"]).await.assert_code(0);
    let after = [writes("write checkpoints/"), writes("write runs/")];
    assert_eq!(after, [before[0], before[1] + 2], "{:?}", blobs.asked());
}

/// A body that never ends.
fn endless() -> Response {
    let piece = Bytes::from(vec![b' '; 1 << 16]);
    let pieces = stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
    Response::new(Body::from_stream(pieces))
}

#[tokio::test]
async fn no_answer_is_read_without_end() {
    let blobs = FakeBlobs::start(|asked, _| {
        ["read", "list", "write", "acquire"].contains(&asked).then(endless)
    })
    .await;
    let store = blobs.store();
    let errors = [
        store.read(NAME).await.map(drop).unwrap_err(),
        store.list("quarantine/").await.map(drop).unwrap_err(),
        store.write(NAME, "{}".into()).await.unwrap_err(),
        store.lease(NAME).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Failed { .. }), "{error}");
        assert!(error.to_string().contains("the reply is larger than "), "{error}");
    }
}

/// As large as it is said to be, a blob is not read, nor its pieces listed.
#[tokio::test]
async fn a_blob_larger_than_any_is_not_read() {
    for (size, why) in [
        ("4294967296", "it has 4294967296 bytes, and more than 67108864 are not read"),
        ("18446744073709551615", "it is said to have 18446744073709551615 bytes"),
    ] {
        let blobs = FakeBlobs::start(move |asked, _| {
            let answer = Response::builder().status(206).header("etag", "\"1\"");
            let answer = answer.header("content-range", format!("bytes 0-1023/{size}"));
            (asked == "read").then(|| answer.body(Body::from(vec![b' '; 1024])).unwrap())
        })
        .await;
        let error = blobs.store().read(NAME).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(NAME), "{error}");
        let mut asked = blobs.asked();
        asked.dedup();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let mut lease = lease(&blobs).await.unwrap().unwrap();
        let error = lease.read().await.map(drop).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// Else what is left of it would be taken for a checkpoint that somebody edited.
#[tokio::test]
async fn a_blob_comes_whole_in_its_pieces_or_not_at_all() {
    let blobs = FakeBlobs::start(|_, _| None).await;
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(9 << 20).collect();
    blobs.put(NAME, bytes.clone());
    assert!(blobs.store().read(NAME).await.unwrap().unwrap() == bytes);
    let asked = blobs.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");

    let cut_short = FakeBlobs::start(|asked, _| {
        let answer = Response::builder().status(206).header("content-range", "bytes 0-9/10");
        (asked == "read").then(|| answer.body(Body::from("{}")).unwrap())
    })
    .await;
    let error = cut_short.store().read(NAME).await.map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("2 of 10 bytes arrived"), "{error}");
}
