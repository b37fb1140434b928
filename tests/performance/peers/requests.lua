-- wrk sends what it is told after "--": the method, the path, a query, over how many streams (their numbers follow the path), and the
-- length of a body. What came of it is printed as one line of JSON.

local prepared = {}
local last = 0

function init(arguments)
   local method, path, query, streams, length = unpack(arguments)
   local body = tonumber(length) > 0 and string.rep("x", tonumber(length)) or nil
   local headers = body and { ["Content-Type"] = "text/plain" } or {}
   for stream = 1, tonumber(streams) do
      prepared[stream] = wrk.format(method, path .. stream .. query, headers, body)
   end
end

function request()
   last = last % #prepared + 1
   return prepared[last]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"microseconds":%d,"bytes":%d,"p50":%d,"p99":%d,"failed":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
      summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout
   ))
end
