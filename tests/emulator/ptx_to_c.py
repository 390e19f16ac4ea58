"""Translates PTX to C, and compiles it for the emulated driver beside it.

ptx_to_c.py in.ptx out.so [compiler options]
"""

import re
import subprocess
import sys

SIZE = {"8": 1, "16": 2, "32": 4, "64": 8}
CT = {
    "u8": "uint8_t",
    "s8": "int8_t",
    "b8": "uint8_t",
    "u16": "uint16_t",
    "s16": "int16_t",
    "b16": "uint16_t",
    "u32": "uint32_t",
    "s32": "int32_t",
    "b32": "uint32_t",
    "u64": "uint64_t",
    "s64": "int64_t",
    "b64": "uint64_t",
    "f32": "float",
    "f64": "double",
    "f16": "uint16_t",
    "bf16": "uint16_t",
    "pred": "uint8_t",
    "f16x2": "uint32_t",
    "bf16x2": "uint32_t",
}
UN = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}


def size_of(t):
    if t == "pred":
        return 1
    if t in ("f16x2", "bf16x2"):
        return 4
    return SIZE[re.sub(r"[a-z]+", "", t)]


PRELUDE = r"""
#include <stdint.h>
#include <string.h>
#include <math.h>
typedef struct TC { uint32_t tid[3], ntid[3], ctaid[3], nctaid[3], lane, warp, state, slot;
  uint64_t lo, hi; char *shared; uint64_t shared_size; const char *params; void *launch;
  uint64_t xchg[2]; uint32_t xmask; uint32_t epoch; void *warpbase; } TC;
extern void emu_slow(TC*, uint64_t, uint32_t, int, int);
extern void emu_shared(TC*, uint64_t, uint32_t, int, int);
extern void emu_trap(TC*, const char*, int);
extern int emu_race;
extern uint64_t emu_peer(TC*, uint32_t lane, int phase);
extern int emu_alive(TC*, uint32_t lane);
static inline char* G(TC*t, uint64_t a, uint32_t n, int w, int line){
  if (a < t->lo || a + n > t->hi || (a & (n-1)) || emu_race) emu_slow(t,a,n,w,line); return (char*)a; }
static inline char* GV(TC*t, uint64_t a, uint32_t n, int w, int line){ return G(t,a,n,w,line);}
static inline char* S_(TC*t, uint64_t a, uint32_t n, int w, int line){
  a &= 0xffffffffu; if (a + n > t->shared_size || (a & (n-1)) || emu_race) emu_shared(t,a,n,w,line); return t->shared + a; }
static inline char* GEN(TC*t, uint64_t a, uint32_t n, int w, int line, char*llo, char*lhi){
  uint64_t s=(uint64_t)t->shared; if (a>=s && a<s+t->shared_size) return S_(t,a-s,n,w,line);
  if ((char*)a>=llo && (char*)a<lhi) return (char*)a; return G(t,a,n,w,line); }
#define BC(T,U,x) ({ T _x=(x); U _u; memcpy(&_u,&_x,sizeof _u); _u; })
static inline float u2f(uint32_t x){float f; memcpy(&f,&x,4); return f;}
static inline uint32_t f2u(float x){uint32_t f; memcpy(&f,&x,4); return f;}
static inline double u2d(uint64_t x){double f; memcpy(&f,&x,8); return f;}
static inline uint64_t d2u(double x){uint64_t f; memcpy(&f,&x,8); return f;}
static inline float h2f(uint16_t h){ _Float16 x; memcpy(&x,&h,2); return (float)x; }
static inline uint16_t f2h(float f){ _Float16 x=(_Float16)f; uint16_t h; memcpy(&h,&x,2); return h; }
static inline uint16_t d2h(double f){ _Float16 x=(_Float16)f; uint16_t h; memcpy(&h,&x,2); return h; }
static inline float b2f(uint16_t h){ return u2f((uint32_t)h<<16); }
static inline uint16_t f2b(float f){ uint32_t u=f2u(f); if((u&0x7fffffff)>0x7f800000) return 0x7fff;
  u += 0x7fff + ((u>>16)&1); return u>>16; }
static inline float ftz(float x){ return fabsf(x)<1.17549435e-38f ? copysignf(0,x):x; }
static inline float minf_(float a,float b){ return a!=a?b:b!=b?a: a<b?a: b<a?b: (signbit(a)?a:b);}
static inline float maxf_(float a,float b){ return a!=a?b:b!=b?a: a>b?a: b>a?b: (signbit(a)?b:a);}
static inline double mind_(double a,double b){ return a!=a?b:b!=b?a: a<b?a: b<a?b: (signbit(a)?a:b);}
static inline double maxd_(double a,double b){ return a!=a?b:b!=b?a: a>b?a: b>a?b: (signbit(a)?b:a);}
static inline int64_t sat(double x,double lo,double hi,int64_t l,int64_t h){ return x!=x?0: x<=lo?l: x>=hi?h:(int64_t)x;}
static inline uint64_t satu(double x,double hi,uint64_t h){ return x!=x||x<=0?0: x>=hi?h:(uint64_t)x;}
static inline uint32_t brev32(uint32_t x){uint32_t r=0;for(int i=0;i<32;i++)r|=((x>>i)&1u)<<(31-i);return r;}
static inline uint32_t prmt(uint32_t a,uint32_t b,uint32_t c){uint64_t v=((uint64_t)b<<32)|a;uint32_t r=0;
 for(int i=0;i<4;i++){uint32_t s=(c>>(4*i))&15;uint8_t x=v>>(8*(s&7));if(s&8)x=(x&0x80)?0xff:0;r|=(uint32_t)x<<(8*i);}return r;}
static inline uint64_t bfe(uint64_t a,uint32_t p,uint32_t l,int w,int sg){p&=255;l&=255;uint64_t r=0;
 uint64_t sb=(sg&&l)?(p+l>w-1?(a>>(w-1))&1:(a>>(p+l-1))&1):0; for(int i=0;i<w;i++){uint64_t b=((uint32_t)i<l&&p+i<(uint32_t)w)?(a>>(p+i))&1:sb;r|=b<<i;}return r;}
static inline uint64_t bfi(uint64_t a,uint64_t b,uint32_t p,uint32_t l,int w){p&=255;l&=255;for(uint32_t i=0;i<l&&p+i<(uint32_t)w;i++){b&=~(1ull<<(p+i));b|=((a>>i)&1)<<(p+i);}return b;}
"""


def split_ops(text):
    out, depth, cur = [], 0, ""
    for ch in text:
        if ch in "{[(":
            depth += 1
        if ch in "}])":
            depth -= 1
        if ch == "," and depth == 0:
            out.append(cur.strip())
            cur = ""
        else:
            cur += ch
    if cur.strip():
        out.append(cur.strip())
    return out


def ident(name):
    return re.sub(r"[^A-Za-z0-9_]", "_D_", name.replace("%", "p_"))


class Module:
    def __init__(self, text):
        # keep the numbers of lines: error messages name them
        text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
        text = re.sub(r"//[^\n]*", "", text)
        self.text = text
        self.globals, self.shared, self.funcs, self.kernels = {}, {}, {}, []
        self.shared_top = 0
        self.out, self.decl, self.unknown = [], [], set()
        self.parse()

    def var(self, words):
        """One declaration of memory, as words without the space and the linkage."""
        m = re.match(
            r"(?:\.align\s+(\d+)\s+)?(?:\.v(\d)\s+)?\.(\w+)\s+([\w$%.]+)\s*((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
            words,
            re.S,
        )
        assert m, words[:200]
        align, vec, t, name, dims, init = m.groups()
        n = size_of(t) * int(vec or 1)
        for d in re.findall(r"\[(\d*)\]", dims or ""):
            n *= int(d or 0)
        return name, int(align or max(1, size_of(t))), n, t, init

    def parse(self):
        pos, text = 0, self.text
        entry = re.compile(
            r"\s*((?:\.visible|\.extern|\.weak|\.common|\.linkonce)\s+)*\.(entry|func)\b", re.S
        )
        while pos < len(text):
            m = entry.match(text, pos)
            if m:
                brace, semi = text.find("{", m.end()), text.find(";", m.end())
                if semi != -1 and (brace == -1 or semi < brace):
                    pos = semi + 1  # a declaration
                    continue
                depth, k = 1, brace + 1
                while depth:
                    depth += {"{": 1, "}": -1}.get(text[k], 0)
                    k += 1
                self.function(
                    m[2],
                    text[m.end() : brace],
                    text[brace + 1 : k - 1],
                    text.count("\n", 0, brace) + 1,
                )
                pos = k
                continue
            m = re.compile(r"\s*\.(version|target|address_size|file|pragma)[^\n]*\n").match(
                text, pos
            )
            if m:
                pos = m.end()
                continue
            m = re.compile(
                r"\s*((?:\.visible|\.extern|\.weak|\.common)\s+)*\.(global|const|shared)\s+(?:\.attribute\([^)]*\)\s+)?([^;]*);",
                re.S,
            ).match(text, pos)
            if m:
                name, align, n, t, init = self.var(m[3])
                if m[2] == "shared":
                    self.add_shared(name, align, n, extern=bool(m[1] and "extern" in m[1]))
                else:
                    self.globals[name] = (align, n, t, init)
                pos = m.end()
                continue
            if not text[pos:].strip():
                break
            m = re.compile(r"\s*\.section[^{]*\{[^}]*\}").match(text, pos)
            assert m, "cannot read: " + text[pos : pos + 200]
            pos = m.end()
        for f in self.funcs.values():  # a function may be called before it is defined
            f.translate()

    def add_shared(self, name, align, n, extern=False):
        if extern and n == 0:
            self.shared[name] = "DYN"
            return
        self.shared_top = -(-self.shared_top // align) * align
        self.shared[name] = self.shared_top
        self.shared_top += n

    def function(self, kind, head, body, line):
        f = Function(self, kind, head, body, line)
        self.funcs[f.name] = f
        if kind == "entry":
            self.kernels.append(f)

    def c(self):
        parts = [PRELUDE]
        for name, (align, n, t, init) in self.globals.items():
            data = ""
            if init:
                init = init.strip()
                vals = init.strip("{}").strip()
                if "generic" in vals or (
                    re.search(
                        r"[A-Za-z_$]", vals.replace("0x", "").replace("0f", "").replace("0d", "")
                    )
                    and not re.match(r"^[\s0-9a-fA-Fx,fd]+$", vals)
                ):
                    data = ""
                else:
                    vals = [imm(v.strip(), t) for v in vals.split(",") if v.strip()]
                    el = UN[size_of(t)]
                    parts.append(
                        f"static {el} g_{ident(name)}[{max(1, n // size_of(t))}] __attribute__((aligned({max(align, 16)}))) = {{{','.join(vals)}}};"
                    )
                    continue
            parts.append(
                f"static char g_{ident(name)}[{max(n, 1)}] __attribute__((aligned({max(align, 16)})));{data}"
            )
        for f in self.funcs.values():
            if f.kind == "func":
                parts.append(f.prototype() + ";")
        for f in self.funcs.values():
            parts.append(f.c())
        parts.append(
            "typedef struct { const char*name; int (*fn)(TC*,void*,const char*); uint32_t state, nparams, shared, barrier; const uint32_t *off, *size; uint32_t maxtid; } EmuKernel;"
        )
        rows = []
        for f in self.kernels:
            parts.append(
                f"static const uint32_t off_{ident(f.name)}[]={{{','.join(str(o) for o, _ in f.layout) or 0}}};"
            )
            parts.append(
                f"static const uint32_t size_{ident(f.name)}[]={{{','.join(str(s) for _, s in f.layout) or 0}}};"
            )
            rows.append(
                f'{{"{f.name}", k_{ident(f.name)}, sizeof(struct R_{ident(f.name)}), {len(f.layout)}, {self.shared_top}, {int(f.sync)}, off_{ident(f.name)}, size_{ident(f.name)}, {f.maxtid}}}'
            )
        parts.append(f"EmuKernel emu_kernels[] = {{{', '.join(rows + ['{0}'])}}};")
        parts.append("typedef struct {const char*name; void*at; uint64_t size;} EmuGlobal;")
        rows = [f'{{"{n}", g_{ident(n)}, {g[1]}}}' for n, g in self.globals.items()]
        parts.append(f"EmuGlobal emu_globals[] = {{{', '.join(rows + ['{0}'])}}};")
        return "\n".join(parts)


def imm(v, t):
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", v):
        return "0x" + v[2:] + ("u")
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", v):
        return "0x" + v[2:] + "ull"
    if v.endswith("U"):
        v = v[:-1]
    return f"({v}ll)" if not v.startswith("0x") else v + "ull"


class Function:
    def __init__(self, module, kind, head, body, line):
        self.m, self.kind, self.line = module, kind, line
        head = head.strip()
        self.ret = None
        if kind == "func":
            m = re.match(r"\s*(?:\(([^)]*)\))?\s*([\w$%.]+)\s*(?:\((.*?)\))?", head, re.S)
            self.ret, self.name, params = m[1], m[2], m[3]
        else:
            m = re.match(r"\s*([\w$.]+)\s*(?:\((.*?)\)\s*)?((?:\s*\.[a-z]\w*[^.]*)*)$", head, re.S)
            self.name, params = m[1], m[2]
        self.maxtid = 0
        mm = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", head)
        if mm:
            self.maxtid = int(mm[1]) * int(mm[2] or 1) * int(mm[3] or 1)
        self.params, self.layout, at = {}, [], 0
        for p in filter(str.strip, (params or "").split(",")):
            p = re.sub(
                r"\.ptr(\s+\.(global|shared|const|local))?(\s+\.align\s+\d+)?", "", p.strip()
            )
            p = re.sub(r"^\.(param|reg)\s+", "", p)
            name, align, n, t, _ = module.var(p.strip())
            at = -(-at // align) * align
            self.params[name] = at
            self.layout.append((at, n))
            at += n
        self.psize = at
        self.retname = None
        if self.ret:
            r = re.sub(r"^\.(param|reg)\s+", "", self.ret.strip())
            name, align, n, t, _ = module.var(r)
            self.retname = name
        self.body = body
        self.regs, self.locals, self.localsize = {}, {}, 0
        self.callparams = {}
        self.sync = bool(re.search(r"\b(bar|barrier|shfl|vote|match)\.", body)) and kind == "entry"
        self.code, self.resume, self.tables = [], 0, {}

    # --- operands
    def reg(self, name):
        return f"s->{ident(name)}"

    def rtype(self, name):
        return self.regs[name]

    def bits(self, op, t):
        """An operand as the unsigned integer of the type's size."""
        n = size_of(t)
        if op in self.regs:
            have = size_of(self.regs[op])
            return self.reg(op) if have == n else f"(({UN[n]}){self.reg(op)})"
        special = self.special(op)
        if special:
            return f"(({UN[n]})({special}))"
        if op in self.m.shared:
            at = self.m.shared[op]
            return f"(({UN[n]}){'DYN_AT' if at == 'DYN' else at})"
        if op in self.m.globals:
            return f"(({UN[n]})(uint64_t)g_{ident(op)})"
        if op in self.locals:
            return f"(({UN[n]})(uint64_t)(s->depot+{self.locals[op]}))"
        if op in self.params and self.kind == "entry":
            return f"(({UN[n]})(uint64_t)(P+{self.params[op]}))"
        if op in self.callparams:
            return f"(({UN[n]})(uint64_t){ident(op)})"
        m = re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", op)
        if m:
            return f"f2u(u2f(0x{m[1]}u))" if t != "f64" else f"d2u(u2f(0x{m[1]}u))"
        m = re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", op)
        if m:
            return f"0x{m[1]}ull" if n == 8 else f"f2u((float)u2d(0x{m[1]}ull))"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", op):
            return f"(({UN[n]})({imm(op, t)}))"
        m = re.fullmatch(r"([\w$]+)\+(\d+)", op)
        if m:
            return f"(({UN[n]})({self.bits(m[1], 'u64')}+{m[2]}))"
        raise KeyError(f"operand {op}")

    def special(self, op):
        m = re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.([xyz])", op)
        if m:
            return f"t->{m[1]}[{'xyz'.index(m[2])}]"
        return {
            "%laneid": "t->lane",
            "%warpid": "t->warp",
            "%smid": "0",
            "%nsmid": "1",
            "WARP_SZ": "32",
            "%clock": "0",
            "%clock64": "0",
            "%globaltimer": "0",
            "%lanemask_lt": "((1u<<t->lane)-1)",
            "%lanemask_eq": "(1u<<t->lane)",
            "%lanemask_le": "((2u<<t->lane)-1)",
            "%lanemask_gt": "(~((2u<<t->lane)-1))",
            "%lanemask_ge": "(~((1u<<t->lane)-1))",
            "%envreg3": "0",
            "%gridid": "0",
            "%dynamic_smem_size": "(t->shared_size)",
        }.get(op)

    def val(self, op, t):
        if t == "pred":
            return self.bits(op, "pred")
        b = self.bits(op, t)
        if t == "f32":
            return f"u2f({b})"
        if t == "f64":
            return f"u2d({b})"
        if t == "f16":
            return f"h2f({b})"
        if t == "bf16":
            return f"b2f({b})"
        if t[0] == "s":
            return f"(({CT[t]}){b})"
        return b

    def put(self, dst, t, expr):
        """Assignment of a value of a type to a register."""
        if dst == "_":
            return f"(void)({expr});"
        dt = self.regs[dst]
        if t == "f32":
            expr = f"f2u({expr})"
        elif t == "f64":
            expr = f"d2u({expr})"
        elif t == "f16":
            expr = f"f2h({expr})"
        elif t == "bf16":
            expr = f"f2b({expr})"
        elif t == "pred":
            return f"{self.reg(dst)} = !!({expr});"
        elif t[0] == "s" and size_of(dt) > size_of(t):
            return f"{self.reg(dst)} = ({UN[size_of(dt)]})({CT['s' + str(8 * size_of(dt))]})({CT[t]})({expr});"
        elif size_of(dt) > size_of(t):
            return f"{self.reg(dst)} = ({UN[size_of(t)]})({expr});"
        return f"{self.reg(dst)} = ({UN[size_of(dt)]})({expr});"

    def address(self, text, space, n, write, line):
        m = re.fullmatch(r"\[\s*([\w$%.]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        assert m, text
        base, off = m[1], m[2] or "0"
        if space == "param":
            if base in self.callparams:
                return f"({ident(base)}+{off})"
            if base == self.retname:
                return f"(RET+{off})"
            if base in self.params:
                return f"(P+{self.params[base]}+{off})"
        wide = (
            self.bits(base, "u64")
            if base not in self.regs or size_of(self.regs[base]) == 8
            else f"(uint64_t){self.reg(base)}"
        )
        if re.fullmatch(r"\d+|0x[0-9a-fA-F]+", base):
            wide = base + "ull"
        a = f"({wide}+(uint64_t)({off}ll))"
        if space == "global" or space == "const":
            if base in self.m.globals:
                return f"((char*){a})"
            return f"G(t,{a},{n},{write},{line})"
        if space == "shared":
            return f"S_(t,{a},{n},{write},{line})"
        if space == "local" or space == "param":
            return f"((char*){a})"
        return f"GEN(t,{a},{n},{write},{line},s->depot,s->depot+sizeof s->depot)"

    # --- statements
    def translate(self):
        line, buf = self.line, ""
        pos, body = 0, self.body
        stmts = []
        token = re.compile(r"([^;{}\n:]*)([;{}\n:])")
        cur, start = "", line
        k, depth = 0, 0
        while k < len(body):
            ch = body[k]
            if ch == "\n":
                line += 1
                cur += " "
            elif ch == ":" and re.fullmatch(r"\s*[\w$]+\s*", cur):
                stmts.append((start, "label", cur.strip()))
                cur = ""
            elif ch == "{" and not cur.strip():
                stmts.append((line, "open", ""))
                cur = ""
            elif ch == "}" and not cur.strip() and depth == 0:
                stmts.append((line, "close", ""))
                cur = ""
            elif ch == ";" and depth == 0:
                stmts.append((line, "ins", cur.strip()))
                cur = ""
            else:
                if ch in "{([":
                    depth += 1
                if ch in "})]":
                    depth -= 1
                cur += ch
            if not cur.strip():
                start = line
            k += 1
        label = None
        scopes = 0
        for line, kind, text in stmts:
            if kind == "label":
                label = text
                self.code.append(f"L_{ident(text)}:;")
            elif kind == "open":
                self.code.append("{")
            elif kind == "close":
                self.code.append("}")
            else:
                text = re.sub(r"\s+", " ", text)
                if text.startswith(".branchtargets") or text.startswith(".callprototype"):
                    if label and text.startswith(".branchtargets"):
                        self.tables[label] = [
                            x.strip() for x in text[len(".branchtargets") :].split(",")
                        ]
                    continue
                if text.startswith("."):
                    self.directive(text)
                    continue
                try:
                    self.instruction(text, line)
                except Exception as error:  # shown only if it is executed
                    self.m.unknown.add(
                        text.split()[0] if not text.startswith("@") else text.split()[1]
                    )
                    self.code.append(
                        f'emu_trap(t,"not translated: {text[:80]} ({type(error).__name__} {str(error)[:60]})".replace,{line});'.replace(
                            '".replace', '"'
                        ).replace("%", "%%")
                        if False
                        else f'emu_trap(t,"not translated: {text[:80]}",{line});'
                    )

    def directive(self, text):
        m = re.match(r"\.reg \.(\w+) (.*)", text)
        if m:
            for one in m[2].split(","):
                one = one.strip()
                mm = re.fullmatch(r"([%\w$]+)<(\d+)>", one)
                names = [f"{mm[1]}{k}" for k in range(int(mm[2]))] if mm else [one]
                for name in names:
                    self.regs[name] = m[1]
            return
        m = re.match(r"\.local (.*)", text)
        if m:
            name, align, n, t, _ = self.m.var(m[1])
            self.localsize = -(-self.localsize // align) * align
            self.locals[name] = self.localsize
            self.localsize += n
            return
        m = re.match(r"\.shared (.*)", text)
        if m:
            name, align, n, t, _ = self.m.var(m[1])
            self.m.add_shared(name, align, n)
            return
        m = re.match(r"\.param (.*)", text)
        if m:
            name, align, n, t, _ = self.m.var(m[1])
            self.callparams[name] = n
            self.code.append(f"char {ident(name)}[{n}] __attribute__((aligned(16)));")
            return
        if text.startswith((".pragma", ".loc")):
            return
        raise ValueError(text)

    def instruction(self, text, line):
        guard = ""
        m = re.match(r"@(!?)([%\w]+)\s+(.*)", text)
        if m:
            guard, text = f"if ({m[1]}{self.reg(m[2])}) ", m[3]
        name, _, rest = text.partition(" ")
        ops = split_ops(rest)
        code = self.emit(name.split("."), ops, line, text)
        self.code.append(
            f"{guard}{{ {code} }}" if guard else code if code.endswith(":;") else f"{{ {code} }}"
        )

    def emit(self, w, ops, line, text):
        op, t = w[0], w[-1]
        V, P = self.val, self.put
        isf = t in ("f32", "f64", "f16", "bf16")
        if op == "mov":
            if ops[0].startswith("{"):
                parts = split_ops(ops[0][1:-1])
                n = size_of(t) // len(parts)
                src = self.bits(ops[1], t)
                return " ".join(
                    f"{self.reg(p)} = ({UN[n]})({src}>>{8 * n * i});"
                    for i, p in enumerate(parts)
                    if p != "_"
                )
            if ops[1].startswith("{"):
                parts = split_ops(ops[1][1:-1])
                n = size_of(t) // len(parts)
                return P(
                    ops[0],
                    "b" + str(8 * size_of(t)),
                    "|".join(
                        f"(({UN[size_of(t)]}){self.bits(p, 'b%d' % (8 * n))}<<{8 * n * i})"
                        for i, p in enumerate(parts)
                    ),
                )
            if t == "pred":
                return P(ops[0], "pred", self.bits(ops[1], "pred"))
            return P(ops[0], "b" + str(8 * size_of(t)), self.bits(ops[1], t))
        if op in ("ld", "ldu", "st"):
            space = next(
                (x for x in w[1:] if x in ("global", "shared", "local", "param", "const")), ""
            )
            if any(x.startswith("param") for x in w[1:]):
                space = "param"
            if any(x.startswith("shared") for x in w[1:]):
                space = "shared"
            count = next((int(x[1]) for x in w[1:] if re.fullmatch(r"v[248]", x)), 1)
            n = size_of(t)
            regs, addr = (ops[0], ops[1]) if op != "st" else (ops[1], ops[0])
            regs = split_ops(regs[1:-1]) if regs.startswith("{") else [regs]
            a = self.address(addr, space, n * count, int(op == "st"), line)
            c = f"char*a_={a};"
            for i, r in enumerate(regs):
                if op == "st":
                    c += f" {{{UN[n]} v_={self.bits(r, 'b%d' % (8 * n))}; memcpy(a_+{i * n},&v_,{n});}}"
                elif r != "_":
                    c += f" {{{CT[t] if not isf else UN[n]} v_; memcpy(&v_,a_+{i * n},{n}); {P(r, t if not isf else 'b%d' % (8 * n), 'v_')}}}"
            return c
        if op in ("add", "sub", "mul", "div", "min", "max", "rem", "and", "or", "xor", "mul24"):
            if t in ("f16x2", "bf16x2"):
                cv, bk = ("h2f", "f2h") if t == "f16x2" else ("b2f", "f2b")
                a, b = self.bits(ops[1], t), self.bits(ops[2], t)
                sym = {"add": "+", "sub": "-", "mul": "*"}[op]
                return P(
                    ops[0],
                    "b32",
                    f"((uint32_t){bk}({cv}((uint16_t)({a}>>16)){sym}{cv}((uint16_t)({b}>>16)))<<16)|{bk}({cv}((uint16_t){a}){sym}{cv}((uint16_t){b}))",
                )
            a, b = V(ops[1], t), V(ops[2], t)
            if isf:
                sym = {"add": "+", "sub": "-", "mul": "*", "div": "/"}.get(op)
                if sym is None:
                    fn = {"f64": "d_"}.get(t, "f_")
                    e = f"{op}{fn}({a},{b})"
                    if "NaN" in w:
                        e = f"(({a})!=({a})||({b})!=({b}))?{'(double)' if t == 'f64' else ''}NAN:{e}"
                else:
                    e = f"{a}{sym}{b}"
                if "ftz" in w:
                    e = f"ftz({e})"
                if "sat" in w:
                    e = f"fminf(fmaxf({e},0),1)"
                return P(ops[0], t, e)
            if op == "mul":
                n = size_of(t)
                if "wide" in w:
                    T = ("s" if t[0] == "s" else "u") + str(16 * n)
                    return P(ops[0], T, f"({CT[T]}){a}*({CT[T]}){b}")
                if "hi" in w:
                    big = (
                        ("__int128" if t[0] == "s" else "unsigned __int128")
                        if n == 8
                        else ("int64_t" if t[0] == "s" else "uint64_t")
                    )
                    return P(ops[0], t, f"(({big}){a}*({big}){b})>>{8 * n}")
                a, b = self.bits(ops[1], t), self.bits(ops[2], t)
                return P(ops[0], t, f"{a}*{b}" if n >= 4 else f"(uint32_t){a}*(uint32_t){b}")
            if op in ("add", "sub"):
                a, b = self.bits(ops[1], t), self.bits(ops[2], t)
                if "sat" in w:
                    raise ValueError
                if "cc" in w:
                    raise ValueError
                return P(ops[0], t, f"{a}{'+' if op == 'add' else '-'}{b}")
            if op in ("div", "rem"):
                sym = "/" if op == "div" else "%"
                return P(ops[0], t, f"({b})==0?({CT[t]})-1:({a}{sym}{b})")
            if op in ("min", "max"):
                return P(ops[0], t, f"({a}){'<' if op == 'min' else '>'}({b})?({a}):({b})")
            return P(ops[0], t, f"{a}{ {'and': '&', 'or': '|', 'xor': '^'}[op] }{b}")
        if op in ("fma", "mad"):
            a, b, c = (
                (V(o, t) for o in ops[1:4])
                if "wide" not in w
                else (V(ops[1], t), V(ops[2], t), None)
            )
            if isf:
                if t in ("f16", "bf16"):
                    return P(ops[0], t, f"(float)((double){a}*(double){b}+(double){c})")
                e = f"fma{'f' if t == 'f32' else ''}({a},{b},{c})"
                return P(ops[0], t, f"ftz({e})" if "ftz" in w else e)
            n = size_of(t)
            if "wide" in w:
                T = ("s" if t[0] == "s" else "u") + str(16 * n)
                return P(ops[0], T, f"({CT[T]}){a}*({CT[T]}){b}+{V(ops[3], T)}")
            if "hi" in w:
                big = (
                    ("__int128" if t[0] == "s" else "unsigned __int128")
                    if n == 8
                    else ("int64_t" if t[0] == "s" else "uint64_t")
                )
                return P(ops[0], t, f"(({CT[t]})((({big}){a}*({big}){b})>>{8 * n}))+{c}")
            a, b, c = (self.bits(o, t) for o in ops[1:4])
            return P(ops[0], t, f"{a}*{b}+{c}")
        if op in (
            "neg",
            "abs",
            "not",
            "sqrt",
            "rcp",
            "rsqrt",
            "ex2",
            "lg2",
            "sin",
            "cos",
            "tanh",
            "cnot",
            "popc",
            "clz",
            "brev",
            "bfind",
        ):
            a = V(ops[1], t)
            if op == "neg":
                if t == "f32":
                    return P(ops[0], "b32", f"{self.bits(ops[1], t)}^0x80000000u")
                if t == "f64":
                    return P(ops[0], "b64", f"{self.bits(ops[1], t)}^0x8000000000000000ull")
                if t in ("f16", "bf16"):
                    return P(ops[0], "b16", f"{self.bits(ops[1], t)}^0x8000u")
                return P(ops[0], t, f"0-{self.bits(ops[1], t)}")
            if op == "abs":
                if t == "f32":
                    return P(ops[0], "b32", f"{self.bits(ops[1], t)}&0x7fffffffu")
                if t == "f64":
                    return P(ops[0], "b64", f"{self.bits(ops[1], t)}&0x7fffffffffffffffull")
                if t in ("f16", "bf16"):
                    return P(ops[0], "b16", f"{self.bits(ops[1], t)}&0x7fffu")
                return P(ops[0], t, f"({a})<0?0-({a}):({a})")
            if op == "not":
                return P(ops[0], t, f"!{a}" if t == "pred" else f"~{self.bits(ops[1], t)}")
            f = "f" if t in ("f32", "f16", "bf16") else ""
            if op == "sqrt":
                return P(ops[0], t, f"sqrt{f}({a})")
            if op == "rcp":
                return P(ops[0], t, f"1.0{f}/{a}")
            if op == "rsqrt":
                return P(ops[0], t, f"(1.0/sqrt((double){a}))")
            if op == "ex2":
                return P(ops[0], t, f"exp2{f}({a})")
            if op == "lg2":
                return P(ops[0], t, f"log2{f}({a})")
            if op in ("sin", "cos", "tanh"):
                return P(ops[0], t, f"{op}{f}({a})")
            if op == "popc":
                return P(ops[0], "u32", f"__builtin_popcountll({self.bits(ops[1], t)})")
            if op == "clz":
                n = 8 * size_of(t)
                return P(
                    ops[0],
                    "u32",
                    f"({self.bits(ops[1], t)})?__builtin_clzll((uint64_t){self.bits(ops[1], t)})-{64 - n}:{n}",
                )
            if op == "brev" and t == "b32":
                return P(ops[0], "u32", f"brev32({self.bits(ops[1], t)})")
            if op == "brev":
                return P(
                    ops[0],
                    "u64",
                    f"((uint64_t)brev32((uint32_t){self.bits(ops[1], t)})<<32)|brev32((uint32_t)({self.bits(ops[1], t)}>>32))",
                )
            raise ValueError(op)
        if op in ("shl", "shr"):
            n = 8 * size_of(t)
            b = self.bits(ops[2], "u32")
            if op == "shl":
                return P(ops[0], t, f"{b}>={n}u?0:({UN[n // 8]})({self.bits(ops[1], t)}<<{b})")
            if t[0] == "s":
                return P(ops[0], t, f"{V(ops[1], t)}>>({b}>={n}u?{n - 1}:{b})")
            return P(ops[0], t, f"{b}>={n}u?0:{self.bits(ops[1], t)}>>{b}")
        if op in ("setp", "set"):
            cmp = w[1]
            T = w[-1]
            logic = next((x for x in w[2:-1] if x in ("and", "or", "xor")), None)
            a, b = V(ops[1], T), V(ops[2], T)
            sym = {
                "eq": "==",
                "ne": "!=",
                "lt": "<",
                "le": "<=",
                "gt": ">",
                "ge": ">=",
                "lo": "<",
                "ls": "<=",
                "hi": ">",
                "hs": ">=",
                "equ": "==",
                "neu": "!=",
                "ltu": "<",
                "leu": "<=",
                "gtu": ">",
                "geu": ">=",
            }
            fl = T in ("f32", "f64", "f16", "bf16")
            if cmp == "num":
                e = f"({a}=={a}&&{b}=={b})"
            elif cmp == "nan":
                e = f"({a}!={a}||{b}!={b})"
            else:
                e = f"({a}{sym[cmp]}{b})"
                if fl and cmp == "ne":
                    e = f"({e}&&{a}=={a}&&{b}=={b})"
                elif fl and cmp.endswith("u") and cmp not in ("neu",):
                    e = f"({e}||{a}!={a}||{b}!={b})"
            if op == "set":
                dt = w[-2]
                return P(ops[0], dt, f"{e}?{'1.0f' if dt == 'f32' else '-1'}:0")
            dst = ops[0].split("|")
            comb = ""
            if logic:
                o = ops[3]
                pv = f"(!{self.reg(o[1:])})" if o.startswith("!") else self.bits(o, "pred")
                sy = {"and": "&", "or": "|", "xor": "^"}[logic]
                c = f"uint8_t e_={e}, q_={pv};" + P(dst[0], "pred", f"e_{sy}q_")
                return c + (P(dst[1], "pred", f"(!e_){sy}q_") if len(dst) > 1 else "")
            return (
                f"uint8_t e_={e};"
                + P(dst[0], "pred", "e_")
                + (P(dst[1], "pred", "!e_") if len(dst) > 1 else "")
            )
        if op == "selp":
            T = "b" + str(8 * size_of(t))
            return P(ops[0], T, f"{self.reg(ops[3])}?{self.bits(ops[1], t)}:{self.bits(ops[2], t)}")
        if op == "slct":
            T = "b" + str(8 * size_of(w[-2]))
            return P(
                ops[0],
                T,
                f"({V(ops[3], t)}>=0)?{self.bits(ops[1], w[-2])}:{self.bits(ops[2], w[-2])}",
            )
        if op == "cvt":
            return self.cvt(w, ops)
        if op == "cvta":
            space = next(x for x in w if x in ("global", "shared", "local", "const", "param"))
            if space != "shared":
                return P(ops[0], "u64", self.bits(ops[1], "u64"))
            return P(
                ops[0],
                "u64",
                f"{self.bits(ops[1], 'u64')}{'-' if 'to' in w else '+'}(uint64_t)t->shared",
            )
        if op == "bra":
            return f"goto L_{ident(ops[0])};"
        if op == "brx":
            rows = self.tables.get(ops[1])
            if rows is None:  # declared later
                mm = re.search(re.escape(ops[1]) + r"\s*:\s*\.branchtargets([^;]*);", self.body)
                rows = [x.strip() for x in mm[1].split(",")]
            return (
                f"switch({self.bits(ops[0], 'u32')}){{"
                + "".join(f"case {i}: goto L_{ident(r)};" for i, r in enumerate(rows))
                + "}"
            )
        if op in ("ret", "exit"):
            return "return 0;"
        if op == "trap":
            return f'emu_trap(t,"trap",{line});'
        if op in ("bar", "barrier"):
            if self.kind == "func":
                raise ValueError("barrier in a function")
            if len(ops) > 1 or w[1] == "red" or ("warp" in w):
                if "warp" not in w:
                    raise ValueError("partial barrier")
                return self.pause(2, line)
            return self.pause(1, line)
        if op in (
            "membar",
            "fence",
            "nanosleep",
            "prefetch",
            "prefetchu",
            "discard",
            "applypriority",
            "griddepcontrol",
        ):
            return ";"
        if op == "activemask":
            return P(ops[0], "u32", "0xffffffffu")
        if op in ("shfl", "vote"):
            return self.warp(w, ops, line)
        if op in ("atom", "red"):
            return self.atomic(w, ops, line)
        if op == "prmt":
            return P(ops[0], "u32", f"prmt({','.join(self.bits(o, 'u32') for o in ops[1:4])})")
        if op == "bfe":
            n = 8 * size_of(t)
            return P(
                ops[0],
                t,
                f"bfe({self.bits(ops[1], t)},{self.bits(ops[2], 'u32')},{self.bits(ops[3], 'u32')},{n},{int(t[0] == 's')})",
            )
        if op == "bfi":
            n = 8 * size_of(t)
            return P(
                ops[0],
                t,
                f"bfi({self.bits(ops[1], t)},{self.bits(ops[2], t)},{self.bits(ops[3], 'u32')},{self.bits(ops[4], 'u32')},{n})",
            )
        if op == "shf":
            a, b, c = (self.bits(o, "u32") for o in ops[1:4])
            cc = f"({c}&31)" if "wrap" in w else f"(({c})>32?32:({c}))"
            v = f"(((uint64_t){b}<<32)|{a})"
            return P(ops[0], "u32", f"({v}<<{cc})>>32" if w[1] == "l" else f"(uint32_t)({v}>>{cc})")
        if op == "lop3":
            a, b, c = (self.bits(o, "u32") for o in ops[1:4])
            lut = int(ops[4], 0)
            terms = []
            for k in range(8):
                if lut >> k & 1:
                    terms.append(
                        "("
                        + "&".join(
                            (x if k >> s & 1 else f"~{x}") for x, s in ((a, 2), (b, 1), (c, 0))
                        )
                        + ")"
                    )
            return P(ops[0], "u32", "|".join(terms) or "0")
        if op == "copysign":
            return P(
                ops[0], t, f"copysign{'f' if t == 'f32' else ''}({V(ops[2], t)},{V(ops[1], t)})"
            )
        if op == "testp":
            a = V(ops[1], t)
            e = {
                "finite": f"isfinite({a})",
                "infinite": f"isinf({a})",
                "number": f"!isnan({a})",
                "notanumber": f"isnan({a})",
                "normal": f"isnormal({a})",
                "subnormal": f"(fpclassify({a})==FP_SUBNORMAL)",
            }[w[1]]
            return P(ops[0], "pred", e)
        if op == "isspacep":
            a = self.bits(ops[1], "u64")
            ins = f"({a}>=(uint64_t)t->shared&&{a}<(uint64_t)t->shared+t->shared_size)"
            inl = f"({a}>=(uint64_t)s->depot&&{a}<(uint64_t)s->depot+sizeof s->depot)"
            return P(
                ops[0],
                "pred",
                {"shared": ins, "local": inl, "global": f"!{ins}&&!{inl}", "const": "0"}[w[1]],
            )
        if op == "call":
            return self.call(ops, line)
        if op == "pmevent":
            return ";"
        raise ValueError(op)

    def pause(self, why, line):
        self.resume += 1
        k = self.resume
        return f"s->pc={k}; return {why}; R{k}:;"

    def warp(self, w, ops, line):
        self.resume += 1
        k = self.resume
        if w[0] == "shfl":
            mode = next(x for x in w if x in ("up", "down", "bfly", "idx"))
            dst = ops[0].split("|")
            src, b, c = self.bits(ops[1], "u32"), self.bits(ops[2], "u32"), self.bits(ops[3], "u32")
            mask = self.bits(ops[4], "u32") if len(ops) > 4 else "0xffffffffu"
            code = f"t->xchg[t->epoch&1]={src}; t->xmask={mask}; s->pc={k}; return 3; R{k}:; {{ uint32_t b_={b}&31,c_={c}; uint32_t seg=(c_>>8)&31, cl=c_&31; uint32_t lane=t->lane; uint32_t mx=(lane&seg)|(cl&~seg), mn=lane&seg; int32_t j; int ok;"
            code += {
                "up": "j=(int)lane-(int)b_; ok=(j>=(int)mx);",
                "down": "j=lane+b_; ok=(j<=(int)mx);",
                "bfly": "j=lane^b_; ok=(j<=(int)mx);",
                "idx": "j=mn|(b_&~seg); ok=(j<=(int)mx);",
            }[mode]
            code += f" if(!ok) j=lane; uint32_t v_=emu_peer(t,j,t->epoch&1); t->epoch++; {self.put(dst[0], 'b32', 'v_')} {self.put(dst[1], 'pred', 'ok') if len(dst) > 1 else ''} }}"
            return code
        mode, t = w[2] if w[1] == "sync" else w[1], w[-1]
        src = ops[1]
        pv = f"(!{self.reg(src[1:])})" if src.startswith("!") else self.bits(src, "pred")
        mask = self.bits(ops[2], "u32") if len(ops) > 2 else "0xffffffffu"
        code = f"t->xchg[t->epoch&1]={pv}; t->xmask={mask}; s->pc={k}; return 3; R{k}:; {{ uint32_t bal=0,m_={mask}; for(int i=0;i<32;i++) if((m_>>i&1)&&emu_alive(t,i)&&emu_peer(t,i,t->epoch&1)) bal|=1u<<i; t->epoch++; "
        code += {
            "ballot": self.put(ops[0], "b32", "bal"),
            "any": f"{self.reg(ops[0])}=bal!=0;",
            "all": f"uint32_t al=0; for(int i=0;i<32;i++) if((m_>>i&1)&&emu_alive(t,i)) al|=1u<<i; {self.reg(ops[0])}=bal==al;",
        }[mode]
        return code + "}"

    def atomic(self, w, ops, line):
        t = w[-1]
        n = size_of(t)
        kind = next(
            x
            for x in w[1:]
            if x in ("add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec")
        )
        space = next((x for x in w[1:] if x in ("global", "shared")), "")
        dst, addr, vals = (ops[0], ops[1], ops[2:]) if w[0] == "atom" else ("_", ops[0], ops[1:])
        a = self.address(addr, space, n, 2, line)
        V = self.val
        old = {"f32": "u2f(o_)", "f64": "u2d(o_)"}.get(t, f"(({CT[t]})o_)")
        v = V(vals[0], t)
        e = {
            "add": f"{old}+{v}",
            "min": f"({old}<{v}?{old}:{v})",
            "max": f"({old}>{v}?{old}:{v})",
            "exch": v,
            "cas": f"(o_=={self.bits(vals[0], t)}?{V(vals[1], t) if len(vals) > 1 else 0}:{old})",
            "and": f"{old}&{v}",
            "or": f"{old}|{v}",
            "xor": f"{old}^{v}",
            "inc": f"({old}>={v}?0:{old}+1)",
            "dec": f"(({old}==0||{old}>{v})?{v}:{old}-1)",
        }[kind]
        conv = {"f32": "f2u", "f64": "d2u"}.get(t, f"({UN[n]})")
        c = f"char*a_={a}; {UN[n]} o_; memcpy(&o_,a_,{n}); {UN[n]} n_={conv}({e}); memcpy(a_,&n_,{n});"
        if dst != "_":
            c += self.put(dst, "b%d" % (8 * n), "o_")
        return c

    def cvt(self, w, ops):
        dt, st = w[-2], w[-1]
        if dt in ("f16x2", "bf16x2"):
            bk = "f2h" if dt == "f16x2" else "f2b"
            return self.put(
                ops[0],
                "b32",
                f"((uint32_t){bk}({self.val(ops[1], 'f32')})<<16)|{bk}({self.val(ops[2], 'f32')})",
            )
        a = self.val(ops[1], st)
        fs, fd = st in ("f32", "f64", "f16", "bf16"), dt in ("f32", "f64", "f16", "bf16")
        if fs and fd:
            rnd = next((x for x in w if x in ("rni", "rzi", "rmi", "rpi")), None)
            if rnd:
                a = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}[
                    rnd
                ] + f"((double){a})"
                return self.put(ops[0], dt, f"({'double' if dt == 'f64' else 'float'})({a})")
            if dt == "f16":
                return f"{self.reg(ops[0])} = {'d2h' if st == 'f64' else 'f2h'}({a});"
            e = f"({'double' if dt == 'f64' else 'float'}){a}"
            if "sat" in w:
                e = f"fmin(fmax({e},0),1)"
            if "ftz" in w:
                e = f"ftz({e})"
            return self.put(ops[0], dt, e)
        if fs:
            rnd = next((x for x in w if x in ("rni", "rzi", "rmi", "rpi")), "rzi")
            r = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}[
                rnd
            ] + f"((double){a})"
            n = 8 * size_of(dt)
            if dt[0] == "s":
                e = f"sat({r},-0x1p{n - 1},0x1p{n - 1},{'INT64_MIN' if n == 64 else -(1 << (n - 1))},{'INT64_MAX' if n == 64 else (1 << (n - 1)) - 1})"
            else:
                e = f"satu({r},0x1p{n},{'UINT64_MAX' if n == 64 else (1 << n) - 1})"
            return self.put(ops[0], dt, e)
        if fd:
            return self.put(ops[0], dt, f"({'double' if dt == 'f64' else 'float'}){a}")
        if "sat" in w:
            raise ValueError("cvt.sat of integers")
        return self.put(ops[0], dt, f"({CT[dt]}){a}")

    def call(self, ops, line):
        # call (ret), name, (args)  |  name, (args)
        ret = None
        if ops[0].startswith("("):
            ret, ops = ops[0].strip("() "), ops[1:]
        name, args = ops[0], (split_ops(ops[1].strip()[1:-1]) if len(ops) > 1 else [])
        f = self.m.funcs.get(name)
        if f is None:
            if name in ("__assertfail", "vprintf"):
                return (f'emu_trap(t,"{name}",{line});' if name == "__assertfail" else ";") + (
                    f" memset({ident(ret)},0,sizeof {ident(ret)});" if ret else ""
                )
            raise ValueError(f"call of {name}")
        c = f"char b_[{max(f.psize, 1)}] __attribute__((aligned(16)));"
        for (at, n), arg in zip(f.layout, args):
            c += f" memcpy(b_+{at},{ident(arg)},{n});"
        c += f" f_{ident(name)}(t, b_, {ident(ret) if ret else '0'});"
        return c

    def prototype(self):
        return f"static int f_{ident(self.name)}(TC*t, const char*P, char*RET)"

    def c(self):
        name = ident(self.name)
        fields = "".join(f"{UN[size_of(t)]} {ident(r)}; " for r, t in self.regs.items())
        out = [
            f"struct R_{name} {{ int pc; {fields} char depot[{max(self.localsize, 1)}] __attribute__((aligned(16))); }};"
        ]
        dyn = f"#define DYN_AT {-(-self.m.shared_top // 16) * 16}"
        out.append("#undef DYN_AT\n" + dyn)
        if self.kind == "func":
            out.append(self.prototype() + f"{{ struct R_{name} s_; struct R_{name}*s=&s_; (void)s;")
        else:
            out.append(f"static int k_{name}(TC*t, void*s0, const char*P) {{")
            if self.sync:
                out.append(f"struct R_{name}*s=s0;")
                out.append(
                    "switch(s->pc){case 0:break;"
                    + "".join(f"case {k}: goto R{k};" for k in range(1, self.resume + 1))
                    + "}"
                )
            else:
                out.append(f"struct R_{name} s_; struct R_{name}*s=&s_; (void)s;")
        out += self.code
        out.append("return 0; }")
        return "\n".join(out)


def main():
    src, dst, *options = sys.argv[1:]
    m = Module(open(src).read())
    c = m.c()
    open(dst + ".c", "w").write(c)
    if m.unknown:
        print("not translated:", *sorted(m.unknown), file=sys.stderr)
    subprocess.run(
        [
            "gcc",
            "-O1",
            "-w",
            "-fPIC",
            "-shared",
            "-fno-strict-aliasing",
            "-ffp-contract=off",
            "-mfma",
            "-mf16c",
            "-msse4.2",
            *options,
            "-o",
            dst,
            dst + ".c",
            "-lm",
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
