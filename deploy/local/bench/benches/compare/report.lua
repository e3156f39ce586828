-- Prints the results of wrk as one line of JSON. wrk counts in microseconds, the output in
-- milliseconds. With an argument, each connection waits before each request: a random time,
-- exponentially distributed, with this mean in milliseconds.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

function init(args)
  local mean = tonumber(args[1])
  if mean then
    math.randomseed(seed)
    delay = function() return math.floor(-mean * math.log(1 - math.random()) + 0.5) end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%f,"mean":%f,"p50":%f,"p99":%f,"p999":%f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency.mean / 1e3, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
