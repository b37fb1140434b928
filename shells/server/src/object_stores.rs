//! The object stores that an operator can choose: a directory, or an S3 service.

#[cfg(feature = "s3")]
mod s3;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::runtime::Handle;

use crate::directory::sync_directory;
#[cfg(feature = "s3")]
pub use s3::{S3, s3};

/// How much of a file is read at once.
const PIECE_BYTES: u64 = 256 << 10;
/// How many files are deleted together before the deletion is made durable.
const DELETED_TOGETHER: usize = 100;

/// A directory, in which an object is a file. An object counts as stored when the file and the
/// entries that lead to it are on disk. It counts as deleted when the deletion is on disk.
///
/// The directory itself has to exist. Without it (the disk may not be mounted) no object is known
/// to be missing.
#[derive(Debug)]
pub struct DirectoryStore {
    root: Arc<PathBuf>,
    files: LocalFileSystem,
    threads: Threads,
}

/// The threads of a separate runtime, so that a disk that hangs does not block threads of the
/// streams.
#[derive(Clone, Debug)]
struct Threads(Handle);

impl Threads {
    /// Runs a closure to its end, even if the caller stops waiting.
    async fn act<T: Send + 'static>(
        &self,
        act: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.0.spawn(act).await?
    }

    async fn block<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.spawn_blocking(act).await?
    }
}

impl DirectoryStore {
    /// Opens a directory, and creates it if it does not exist. It is used on the blocking threads
    /// of the given runtime.
    ///
    /// # Errors
    /// When it cannot be created or found.
    pub fn take(path: &FilePath, threads: Handle) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let root = fs::canonicalize(path)?;
        if let Some(parent) = root.parent() {
            sync_directory(parent)?;
        }
        let files = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self {
            root: Arc::new(root),
            files: files.with_fsync(true),
            threads: Threads(threads),
        })
    }

    async fn is_there(&self) -> Result<()> {
        let root = Arc::clone(&self.root);
        self.threads.block(move || is_there(&root)).await
    }

    /// Makes the directory of an object durable, with the entries that lead to it.
    /// [`LocalFileSystem`] syncs only what it makes itself. An earlier attempt may have made a
    /// directory and failed to sync it.
    async fn make_room(&self, location: &Path) -> Result<()> {
        self.is_there().await?;
        let (root, path) = (
            Arc::clone(&self.root),
            self.files.path_to_filesystem(location)?,
        );
        let make = move || {
            let made = path.parent().map_or(Ok(()), fs::create_dir_all);
            let above = path.ancestors().skip(2);
            let made = made.and_then(|()| {
                above
                    .take_while(|directory| directory.starts_with(&*root))
                    .try_for_each(sync_directory)
            });
            made.map_err(|error| failed(&path, error))
        };
        self.threads.block(make).await
    }
}

/// Checks more than that the path exists, because it may not be a directory.
fn is_there(root: &FilePath) -> Result<()> {
    fs::read_dir(root)
        .map(drop)
        .map_err(|error| failed(root, error))
}

fn failed(path: &FilePath, error: io::Error) -> Error {
    Error::Generic {
        store: "DirectoryStore",
        source: format!("{}: {error}", path.display()).into(),
    }
}

/// Deletes a file, and what a killed attempt to write it may have left beside it. A file that does
/// not exist is no error.
fn delete(path: &FilePath) -> io::Result<()> {
    let is_gone = |path: &FilePath| match fs::remove_file(path) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    };
    is_gone(path)?;
    for number in 1_u32.. {
        // The names of unfinished files of `LocalFileSystem`.
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!("#{number}"));
        if is_gone(FilePath::new(&staged))? {
            break;
        }
    }
    Ok(())
}

/// Makes the deletion of files durable, and removes directories that are now empty.
fn settle(root: &FilePath, mut deleted: Vec<PathBuf>) -> io::Result<()> {
    deleted.sort();
    deleted.dedup_by(|one, other| one.parent() == other.parent());
    for path in deleted {
        let above = path.ancestors().skip(1);
        for directory in above.take_while(|directory| *directory != root) {
            match sync_directory(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                synced => synced?,
            }
            // The first directory that is not empty stays, and so do its parents.
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
    Ok(())
}

impl fmt::Display for DirectoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DirectoryStore({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.make_room(location).await?;
        let (files, location) = (self.files.clone(), location.clone());
        self.threads
            .act(async move { files.put_opts(&location, payload, options).await })
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.make_room(location).await?;
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (files, asked) = (self.files.clone(), location.clone());
        let found = self
            .threads
            .act(async move { files.get_opts(&asked, options).await })
            .await;
        let found = match found {
            Err(error @ Error::NotFound { .. }) => {
                self.is_there().await?;
                return Err(error);
            }
            found => found?,
        };
        Ok(match found.payload {
            GetResultPayload::File(file, path) => GetResult {
                payload: GetResultPayload::Stream(pieces(
                    self.threads.clone(),
                    file,
                    path,
                    found.range.clone(),
                )),
                ..found
            },
            GetResultPayload::Stream(_) => found,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (root, files, threads) = (
            Arc::clone(&self.root),
            self.files.clone(),
            self.threads.clone(),
        );
        let deleted = locations
            .ready_chunks(DELETED_TOGETHER)
            .then(move |locations| {
                let (root, files, threads) = (Arc::clone(&root), files.clone(), threads.clone());
                async move {
                    let deleted = threads
                        .block(move || delete_all(&root, &files, locations))
                        .await;
                    stream::iter(deleted.unwrap_or_else(|error| vec![Err(error)]))
                }
            });
        deleted.flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.is_there().await?;
        self.files.copy_opts(from, to, options).await
    }
}

fn delete_all(
    root: &FilePath,
    files: &LocalFileSystem,
    locations: Vec<Result<Path>>,
) -> Result<Vec<Result<Path>>> {
    is_there(root)?;
    let mut deleted = Vec::new();
    let mut outcomes = Vec::new();
    for location in locations {
        outcomes.push(location.and_then(|location| {
            let path = files.path_to_filesystem(&location)?;
            delete(&path).map_err(|error| failed(&path, error))?;
            deleted.push(path);
            Ok(location)
        }));
    }
    settle(root, deleted).map_err(|error| failed(root, error))?;
    Ok(outcomes)
}

/// Reads a range of a file piece by piece. Ends early at the end of the file.
fn pieces(
    threads: Threads,
    file: File,
    path: PathBuf,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes>> {
    let begin = (threads, file, path, range);
    stream::try_unfold(begin, |(threads, mut file, path, range)| async move {
        let length = (range.end - range.start).min(PIECE_BYTES);
        if length == 0 {
            return Ok(None);
        }
        let read = move || {
            let mut piece = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            file.seek(SeekFrom::Start(range.start))
                .and_then(|_| (&mut file).take(length).read_to_end(&mut piece))
                .map_err(|error| failed(&path, error))?;
            let next = range.start + piece.len() as u64..range.end;
            Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file, path, next)))
        };
        let read = threads.block(read).await?;
        Ok(read.map(|(piece, file, path, next)| (piece, (threads, file, path, next))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt as _;
    use object_store::{ObjectStoreExt as _, PutMode};

    const BYTES: usize = 700_000;

    async fn put(directory: &DirectoryStore, path: &Path) -> Result<PutResult> {
        let payload = PutPayload::from(vec![7; BYTES]);
        directory
            .put_opts(path, payload, PutOptions::from(PutMode::Create))
            .await
    }

    async fn delete_both(directory: &DirectoryStore, paths: [&Path; 2]) -> Result<Vec<Path>> {
        let paths = stream::iter(paths.map(|path| Ok(path.clone())));
        directory.delete_stream(paths.boxed()).try_collect().await
    }

    #[tokio::test]
    async fn an_object_is_put_once_and_read_in_pieces() {
        let place = tempfile::tempdir().unwrap();
        let directory = DirectoryStore::take(place.path(), Handle::current()).unwrap();
        let path = Path::from("name/incarnation/0-1");
        put(&directory, &path).await.unwrap();
        assert!(matches!(
            put(&directory, &path).await,
            Err(Error::AlreadyExists { .. })
        ));
        let options = GetOptions::new().with_range(Some(100..BYTES as u64 + 9));
        let found = directory
            .get_opts(&path, options)
            .await
            .unwrap()
            .into_stream();
        let pieces: Vec<_> = found.try_collect().await.unwrap();
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() as u64 <= PIECE_BYTES));
        assert_eq!(pieces.concat(), vec![7; BYTES - 100]);
    }

    #[tokio::test]
    async fn what_is_deleted_leaves_nothing_not_even_of_a_put_that_was_killed() {
        let place = tempfile::tempdir().unwrap();
        let directory = DirectoryStore::take(place.path(), Handle::current()).unwrap();
        let [path, killed] = ["name/incarnation/0-1", "other/incarnation/0-1"].map(Path::from);
        put(&directory, &path).await.unwrap();
        fs::create_dir_all(place.path().join("other/incarnation")).unwrap();
        fs::write(place.path().join("other/incarnation/0-1#1"), "half").unwrap();
        for _ in 0..2 {
            assert_eq!(
                delete_both(&directory, [&path, &killed])
                    .await
                    .unwrap()
                    .len(),
                2
            );
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn without_the_directory_nothing_is_known_and_nothing_is_made() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("cold");
        let directory = DirectoryStore::take(&root, Handle::current()).unwrap();
        let path = Path::from("name/incarnation/0-1");
        assert!(matches!(
            directory.get(&path).await,
            Err(Error::NotFound { .. })
        ));
        fs::remove_dir(&root).unwrap();
        assert!(matches!(
            directory.get(&path).await,
            Err(Error::Generic { .. })
        ));
        assert!(put(&directory, &path).await.is_err());
        assert!(delete_both(&directory, [&path, &path]).await.is_err());
        assert!(!root.exists());
    }
}
