-- template.lua: the template engine. Text with Lua lines in, CUDA text out.
--
-- A line whose first non-blank character is '|' is Lua; in every other line ${expression} is replaced by the value of the
-- expression, and the rest is copied. Each template line becomes exactly one line of a Lua chunk that is named after the
-- template, so an error, at load or at run time, names the template's own file and line.
--
-- Values must be strings or integers. A float would print differently for 8 and 8.0, so floats go through cuda.float first.

local strict = require "strict"

local template = {}

local function copied(text)
    return string.format("%q", text)
end

-- One template line (not a Lua line) as the arguments of an emit call.
local function translate(line, name, number)
    local parts, from = {}, 1
    while true do
        local open = string.find(line, "${", from, true)
        if not open then break end
        local close = string.find(line, "}", open, true)
        if not close then error(string.format("%s:%d: '${' without '}'", name, number), 0) end
        if open > from then parts[#parts + 1] = copied(string.sub(line, from, open - 1)) end
        parts[#parts + 1] = "(" .. string.sub(line, open + 2, close - 1) .. ")"
        from = close + 1
    end
    if from <= #line then parts[#parts + 1] = copied(string.sub(line, from)) end
    return parts
end

-- The Lua text of a template, line for line.
function template.translate(text, name)
    local lines, number = {}, 0
    if string.sub(text, -1) ~= "\n" then text = text .. "\n" end
    for line in string.gmatch(text, "([^\n]*)\n") do
        number = number + 1
        local code = string.match(line, "^%s*|(.*)$")
        if code then
            lines[number] = code
        else
            local parts = translate(line, name, number)
            parts[#parts + 1] = '"\\n"'
            lines[number] = "emit_(" .. table.concat(parts, ", ") .. ")"
        end
    end
    return table.concat(lines, "\n")
end

-- A template ready to run: the function, and the table of its global names, which `run` fills anew each time.
local function compile(text, chunk)
    local names = strict.seal({}, "the environment of " .. chunk)
    return { run = host.load(template.translate(text, chunk), "@" .. chunk, names), names = names }
end

local function run(compiled, env)
    local out, n = {}, 0
    local function emit(...)
        for i = 1, select("#", ...) do
            local value = select(i, ...)
            if type(value) ~= "string" and math.type(value) ~= "integer" then
                error("${} gives a " .. (math.type(value) or type(value)) .. ", not a string or an integer", 2)
            end
            n = n + 1
            out[n] = value
        end
    end
    local names = compiled.names
    for key in strict.sorted(names) do names[key] = nil end
    for key, value in strict.sorted { ipairs = ipairs, string = string, table = table, math = math, tostring = tostring,
                                      error = error, emit_ = emit } do
        names[key] = value
    end
    for key, value in strict.sorted(env) do names[key] = value end
    compiled.run()
    return table.concat(out)
end

local compiled = {} -- by name: the text of a template does not change while a state lives

-- Renders templates/<name> with the fields of `env` as its global names, on top of ipairs, string, table and math.
function template.render(name, env)
    compiled[name] = compiled[name] or compile(host.template(name), "templates/" .. name)
    return run(compiled[name], env)
end

-- Renders a text that begins on that line of the file `chunk`, likewise.
function template.render_text(text, chunk, line, env)
    return run(compile(string.rep("|\n", line - 1) .. text, chunk), env)
end

return template
