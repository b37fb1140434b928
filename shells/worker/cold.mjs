// Carries out what has to be waited for: puts and deletions in R2, messages to the registry and the admin index, and bodies that
// are partly in R2 or have several pages. What to do, and what to do when it fails, is decided by the Rust code.

const failed = (what, error) => console.error(what, error);

/** Whether the segment is known to be stored. Nothing is put over an object that is there. */
async function put(bucket, job, pieces) {
  const length = pieces.begin(job.put);
  const { readable, writable } = new FixedLengthStream(length);
  const writer = writable.getWriter();
  const write = async () => {
    try {
      for (let piece = pieces.next(job.put, true); piece !== undefined; piece = pieces.next(job.put, false)) {
        await writer.write(piece);
      }
      await writer.close();
    } catch (error) {
      await writer.abort(error).catch(() => {});
      throw error;
    }
  };
  const [stored] = await Promise.all([bucket.put(job.put.key, readable, { onlyIf: { etagDoesNotMatch: "*" } }), write()]);
  return stored !== null;
}

/** Carries out one job and hands its outcome to `report`. */
export async function carryOut(job, env, pieces, report) {
  switch (job.kind) {
    case "put": {
      const stored = await put(env.SEGMENTS, job, pieces).catch((error) => failed("a segment was not stored", error));
      report((object) => object.stored(job.put, stored === true));
      break;
    }
    case "collect": {
      const done = await env.SEGMENTS.delete(job.keys).then(
        () => true,
        (error) => failed("objects were not deleted", error),
      );
      report((object) => object.collected(job.flight, done === true));
      break;
    }
    case "registry": {
      const { method, headers, body } = job;
      const request = new Request(`http://registry${job.path}${job.name}`, { method, headers, body });
      const status = await env.STREAMS.getByName(job.name)
        .fetch(request)
        .then(
          async (response) => {
            await response.body?.cancel();
            return response.status;
          },
          (error) => failed("the registry was not told", error),
        );
      report((object) => object.replied(job.flight, status));
      break;
    }
    case "index": {
      const statements = job.statements.map(({ sql, values }) => env.ADMIN_INDEX.prepare(sql).bind(...values));
      const status = await env.ADMIN_INDEX.batch(statements).then(
        () => 200,
        (error) => failed("the admin index was not told", error),
      );
      report((object) => object.replied(job.flight, status));
      break;
    }
  }
}

/** The body's bytes as they come; throws when it is damaged, R2 fails, or the stream ends before the body. */
async function* bytesOf(pages, bucket, readOn) {
  const whole = () => {
    if (pages.damaged !== undefined) throw new Error(pages.damaged);
    return pages.take();
  };
  for (;;) {
    const fetch = pages.advance();
    const written = whole();
    if (written.byteLength > 0) yield written;
    if (fetch === undefined) {
      if (!pages.hasRest) return;
      if (!readOn(pages)) throw new Error("the stream has ended, or its turn has failed");
      continue;
    }
    const object = await bucket.get(fetch.key, { range: { offset: fetch.offset, length: fetch.length } });
    if (object === null) {
      pages.missing();
      whole();
    }
    for await (const piece of object.body) {
      pages.push(piece);
      const written = whole();
      if (written.byteLength > 0) yield written;
    }
    pages.fetched();
    whole();
  }
}

/** The response of several pieces, once its first bytes are known to be whole. `readOn` gets the next page. */
export async function respond(pages, bucket, readOn) {
  const bytes = bytesOf(pages, bucket, readOn);
  let freed = false;
  const free = () => {
    if (!freed) pages.free();
    freed = true;
  };
  let first;
  try {
    first = await bytes.next();
  } catch (error) {
    failed("a page was not made", error);
    const failure = pages.failure();
    free();
    return failure;
  }
  const body = new ReadableStream(
    {
      async pull(controller) {
        let next;
        try {
          next = first ?? (await bytes.next());
          first = undefined;
        } catch (error) {
          // The client is cut off, and reads on from where it was.
          failed("a response broke off", error);
          free();
          throw error;
        }
        if (next.done) {
          free();
          controller.close();
        } else {
          controller.enqueue(next.value);
        }
      },
      async cancel() {
        await bytes.return();
        free();
      },
    },
    // Nothing is made before the client has taken what was made.
    { highWaterMark: 0 },
  );
  return pages.response(body);
}
