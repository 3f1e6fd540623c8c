-- schedule.lua: candidates in order of predicted time; why each other schedule was refused.
--
-- To add a schedule: write gen/schedules/<name>.lua and templates/conv2d_<name>.cu.in, add <name> to `names` below, and
-- add tests. The module must have
--   parameters   { { name, least, most }, ... }: integers, in the order of the specification's text
--   applies(problem, target)               true, or false and the reason
--   candidates(problem, target)            a list of parameter tables worth considering, possibly empty
--   check(problem, target, parameters)     nil, or why these parameters cannot be
--   time(problem, target, parameters)      predicted microseconds, by cost.lua
--   explain(problem, parameters)           one line for people; independent of N, H and W
--   launch(problem, target, parameters)    { template =, env =, requires =, workspace =, align =, launches = }
-- Everything but candidates, time and launch's expressions must be independent of N, H and W.

local strict = require "strict"

local schedule = {}

local names <const> = { "wgmma", "direct" }

local modules = {}
for _, name in ipairs(names) do modules[name] = require("schedules." .. name) end

-- "direct:tk=8,..." with every parameter.
function schedule.format(name, parameters)
    local parts = {}
    for i, parameter in ipairs(modules[name].parameters) do
        parts[i] = parameter[1] .. "=" .. parameters[parameter[1]]
    end
    return name .. ":" .. table.concat(parts, ",")
end

local function invalid(...)
    error({ status = "invalid", message = string.format(...) })
end

-- Reads what format writes; the parameters may come in any order, but all must be there. Returns name and parameters;
-- parameters are nil if only a name was given.
function schedule.parse(text)
    local name, rest = string.match(text, "^([%w_]+):?(.*)$")
    if not name or not modules[name] then
        invalid("unknown schedule '%s'; known: %s", text, table.concat(names, " "))
    end
    if rest == "" then return name end
    local given = {}
    for part in string.gmatch(rest, "[^,]+") do
        local key, value = string.match(part, "^([%w_]+)=(%d+)$")
        if not key or #value > 9 then invalid("schedule %s: '%s' is not of the form parameter=number", name, part) end
        if given[key] then invalid("schedule %s: %s is given twice", name, key) end
        given[key] = math.tointeger(tonumber(value))
    end
    local parameters = {}
    for _, parameter in ipairs(modules[name].parameters) do
        local key, least, most = parameter[1], parameter[2], parameter[3]
        local value = given[key]
        if not value then invalid("schedule %s: parameter %s is missing", name, key) end
        if value < least or value > most then
            invalid("schedule %s: %s is %d; %d to %d", name, key, value, least, most)
        end
        parameters[key], given[key] = value, nil
    end
    for key in strict.sorted(given) do invalid("schedule %s has no parameter '%s'", name, key) end
    return name, parameters
end

-- Adds a candidate to `found`, or returns why it cannot be.
local function add(found, problem, target, name, parameters)
    local reason = modules[name].check(problem, target, parameters)
    if reason then return reason end
    found[#found + 1] = { name = name, parameters = parameters,
                          predicted_us = modules[name].time(problem, target, parameters) }
end

-- By predicted time; equal ones by their parameters, so that the order never depends on how they were found.
local function better(a, b)
    if a.predicted_us ~= b.predicted_us then return a.predicted_us < b.predicted_us end
    if a.name ~= b.name then return a.name < b.name end
    for _, parameter in ipairs(modules[a.name].parameters) do
        local key = parameter[1]
        if a.parameters[key] ~= b.parameters[key] then return a.parameters[key] > b.parameters[key] end
    end
    return false
end

local MOST_LISTED <const> = 20 -- candidates that are worth a line

-- Returns { { name, parameters, schedule, predicted_us, why }, ... } best first, at most MOST_LISTED of them, and
-- { { schedule, why }, ... }. `wanted` restricts: nil, a schedule's name, or a full specification.
function schedule.candidates(problem, target, wanted)
    local found, refused = {}, {}
    local only, parameters
    if wanted then only, parameters = schedule.parse(wanted) end
    if parameters then
        local reason = add(found, problem, target, only, parameters)
        if reason then invalid("schedule %s: %s", wanted, reason) end
    end
    for _, name in ipairs(parameters and {} or names) do
        if not only or only == name then
            local ok, reason = modules[name].applies(problem, target)
            if ok then
                for _, candidate in ipairs(modules[name].candidates(problem, target)) do
                    reason = add(found, problem, target, name, candidate)
                    if reason then
                        refused[#refused + 1] = { schedule = schedule.format(name, candidate), why = reason }
                    end
                end
            else
                refused[#refused + 1] = { schedule = name, why = reason }
            end
        end
    end
    table.sort(found, better)
    local listed = {}
    for i = 1, math.min(#found, MOST_LISTED) do
        local candidate = found[i]
        local explained = modules[candidate.name].explain(problem, candidate.parameters)
        candidate.schedule = schedule.format(candidate.name, candidate.parameters)
        candidate.why = i == 1 and explained or
            string.format("%.2f times the best; %s", candidate.predicted_us / found[1].predicted_us, explained)
        listed[i] = candidate
    end
    return listed, refused, #found
end

function schedule.module(name) return modules[name] end

return schedule
