-- Sends the bodies of a file in rotation and reports as one line of JSON.
-- wrk ... -s wrk.lua URL -- FILE                FILE holds one JSON body a line
-- wrk ... -s wrk.lua URL -- FILE BYTES HEAD     FILE holds bodies of so many bytes, the first HEAD of which are JSON
-- Each thread begins at another place in it.

local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  requests = {}
  local headers = {["Content-Type"] = "application/json"}
  local parts = "*l"
  if args[2] then
    parts = tonumber(args[2])
    headers = {["Content-Type"] = "application/octet-stream", ["Inference-Header-Content-Length"] = args[3]}
  end
  for body in io.lines(args[1], parts) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
  place = math.floor(#requests * number * 0.381966) % #requests
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
