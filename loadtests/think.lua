-- As wrk.lua does, and each connection pauses before a request, for a time that is drawn from an exponential distribution:
-- wrk ... -s think.lua URL -- FILE MEAN_MS

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "wrk.lua")
local read = init

function init(args)
  mean_ms = tonumber(args[2])
  read({args[1]})
  math.randomseed(number + 1)
end

function delay()
  return math.floor(0.5 - mean_ms * math.log(1 - math.random()))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "mean_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency.mean, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
  io.stderr:write(string.format("connect %d, read %d, write %d, status %d, timeout %d", errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
