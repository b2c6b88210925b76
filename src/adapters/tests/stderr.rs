//! What a program says on standard error, and the line of it that says why it ended.

#[test]
fn the_last_words_are_the_line_with_the_cause() {
    for (stderr, cause) in [
        (
            "error: unexpected argument '--full-auto' found\n\n  tip: to pass it as a value, use '-- --full-auto'\n\nUsage: codex exec [OPTIONS] [PROMPT]\n\nFor more information, try '--help'.\n",
            "error: unexpected argument '--full-auto' found",
        ),
        (
            "usage: x [-h] [--foo]\n         [--bar]\nx: error: unrecognized arguments: --baz\n",
            "x: error: unrecognized arguments: --baz",
        ),
        (
            "flag provided but not defined: -x\nUsage of prog:\n  -a string\n    \tan error: text (default \"b\")\n",
            "flag provided but not defined: -x",
        ),
        (
            "x: invalid option -- 'z'\nUsage: x [-a]\nTry 'x --help' for more information.\n",
            "x: invalid option -- 'z'",
        ),
        (
            "Reading prompt from stdin...\nReading additional input from stdin...\n",
            "Reading additional input from stdin...",
        ),
        (
            "the disk is full\nReading additional input from stdin...\n",
            "the disk is full",
        ),
        (
            "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    raise ValueError(\"bad\")\nValueError: bad\n",
            "ValueError: bad",
        ),
        (
            "node:internal/modules/cjs/loader:1228\n  throw err;\n  ^\n\nError: Cannot find module 'x'\nRequire stack:\n- /a/b.js\n    at Module._resolve (node:internal:1:2)\n    at f (/a/b.js:1:1) {\n  code: 'MODULE_NOT_FOUND'\n}\n\nNode.js v20.1.0\n",
            "Error: Cannot find module 'x'",
        ),
        (
            "thread 'main' panicked at src/main.rs:2:5:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
            "thread 'main' panicked at src/main.rs:2:5: index out of bounds",
        ),
        (
            "fatal: not a git repository (or any of the parent directories): .git\n",
            "fatal: not a git repository (or any of the parent directories): .git",
        ),
        ("sh: 1: frob: not found\n", "sh: 1: frob: not found"),
        (
            "\u{1b}[31merror: red\u{1b}[0m\nwarning: 1 deprecation\n",
            "error: red",
        ),
        (
            "   at x\n  cause: {\n    message: 'Resource has been exhausted (e.g. check quota).',\n    details: [ [Object] ]\n  },\n  status: 429\n}\n",
            "message: 'Resource has been exhausted (e.g. check quota).',",
        ),
        (
            "When using Gemini API, you must specify the GEMINI_API_KEY environment variable.\nUpdate your environment and try again!\n",
            "When using Gemini API, you must specify the GEMINI_API_KEY environment variable.",
        ),
        ("one\ntwo\n", "two"),
        ("", ""),
        (
            "x.sh: line 3: foo: command not found\n+ exit 1\n",
            "x.sh: line 3: foo: command not found",
        ),
        (
            "(node:12) [DEP0040] DeprecationWarning: The `punycode` module is deprecated.\n(Use `node --trace-deprecation ...` to show where the warning was created)\nTypeError: x is not a function\n    at f (/a.js:1:1)\n\nNode.js v22.1.0\n",
            "TypeError: x is not a function",
        ),
        (
            "Error: fetch failed\n    at f (/a.js:1:1) {\n  [cause]: Error: connect ECONNREFUSED 127.0.0.1:1\n      at g (/b.js:1:1) {\n    errno: -111,\n    code: 'ECONNREFUSED',\n  }\n}\n",
            "[cause]: Error: connect ECONNREFUSED 127.0.0.1:1",
        ),
        (
            "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nmain.main()\n\t/tmp/x.go:5 +0x1d\nexit status 2\n",
            "panic: runtime error: index out of range [5] with length 3",
        ),
        (
            "thread 'main' (7) panicked at src/main.rs:2:5:\nboom\nstack backtrace:\n   0: rust_begin_unwind\n             at /rustc/x/library/std/src/panicking.rs:1:5\n   1: core::panicking::panic_fmt\nnote: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n",
            "thread 'main' (7) panicked at src/main.rs:2:5: boom",
        ),
        (
            "error[E0425]: cannot find value `y` in this scope\n --> src/main.rs:2:5\n  |\n2 |     y\n  |     ^ not found in this scope\n\nFor more information about this error, try `rustc --explain E0425`.\nerror: could not compile `x` (bin \"x\") due to 1 previous error\n",
            "error[E0425]: cannot find value `y` in this scope",
        ),
        (
            "npm error Missing script: \"frob\"\nnpm error\nnpm error To see a list of scripts, run:\nnpm error   npm run\nnpm error A complete log of this run can be found in: /x/y.log\n",
            "npm error Missing script: \"frob\"",
        ),
        (
            "npm error code E404\nnpm error 404 Not Found - GET https://x.y/z\nnpm error A complete log of this run can be found in: /x/y.log\n",
            "npm error 404 Not Found - GET https://x.y/z",
        ),
        (
            "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    run(\"error: none\")\n    ~~~^^^^^^^\nbuiltins.Timeout\n",
            "builtins.Timeout",
        ),
        (
            "FAILED tests/x.py::test_a - assert 1 == 2\n=========== 1 failed in 0.10s ===========\n",
            "FAILED tests/x.py::test_a - assert 1 == 2",
        ),
        (
            "x.c:1:2: error: expected ';'\n1 error generated.\nmake: *** [Makefile:2: all] Error 1\n",
            "x.c:1:2: error: expected ';'",
        ),
        (
            "make: *** [Makefile:2: all] Error 1\n",
            "make: *** [Makefile:2: all] Error 1",
        ),
        (
            "the disk is full\n 10% [=>    ]\r 50% [==>   ]\r100% [=====>]\n",
            "the disk is full",
        ),
        (
            "\u{1b}]0;title\u{7}\u{1b}[2K\u{1b}[1G\u{1b}[?25hthe disk is full\n",
            "the disk is full",
        ),
        (
            "Exception in thread \"main\" java.lang.RuntimeException: x\n\tat A.main(A.java:1)\nCaused by: java.io.IOException: y\n\tat B.f(B.java:2)\n\t... 3 more\n",
            "Caused by: java.io.IOException: y",
        ),
    ] {
        assert_eq!(
            crate::adapters::last_words(stderr.as_bytes()),
            cause,
            "{stderr}"
        );
    }
}
