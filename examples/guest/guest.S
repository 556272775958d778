# The example guest: keeps writing pages that prove themselves.
#
# Runs in 64-bit mode at privilege level 3 (every kind of KVM runs that at full speed), with ports
# allowed, memory mapped one to one, no interrupts and no stack. Loaded at 0x1000; the control page
# is at 0x2000 (its fields below; `examples/c/program.h` is the same in C), page tables follow.
#
# Forever: ask the host on port 0x10 how many pages to write now (it answers when it is time, 0 for
# none), then write that many. A page holds its number, the number of this write, a checksum and
# 1020 words of fill; the checksum word comes last, and the counter after it, in one store. So a
# guest stopped at any instruction has at most one page in the making, and which one that is, and
# what each page must hold, follows from the counter alone.
#
# Assembled by `make -C examples/guest`; a test checks that guest.bin and guest_code.h are fresh.

        .set CONTROL,     0x2000
        .set FIRST_PAGE,  8     # number of the first data page
        .set DATA_PAGES,  12    # data pages; the first so many writes fill them in order
        .set WORKING_SET, 16    # then only the first so many are written, in steps of STRIDE
        .set STRIDE,      20
        .set CONTENT,     24    # 0 random, 1 text, 2 mostly zero
        .set TICKS,       28    # questions asked
        .set COUNTER,     32    # pages written, 64 bits
        .set CURSOR,      40    # index of the data page to write next
        .set BATCH,       44    # pages left to write before the next question

        .set WORDS,       0x1200 # 64 fragments of text, 4 bytes each

        .code64
        .text
start:
        movl    $CONTROL, %ebp
next_batch:
        incl    TICKS(%rbp)
        inl     $0x10, %eax             # the host paces the guest here
        movl    %eax, BATCH(%rbp)
        testl   %eax, %eax
        jz      next_batch

next_page:
        movq    COUNTER(%rbp), %r8
        incq    %r8                     # r8 = number of this write
        movl    CURSOR(%rbp), %esi
        addl    FIRST_PAGE(%rbp), %esi  # esi = page number
        movl    %esi, %edi
        shlq    $12, %rdi               # rdi = its address

        movq    %r8, %r9
        shrq    $32, %r9                # r9 = upper half of the number
        imull   $0x9E3779B1, %esi, %ecx # ecx = seed of the fill, never 0
        imull   $0x85EBCA6B, %r8d, %eax
        addl    %r9d, %eax
        xorl    %eax, %ecx
        orl     $1, %ecx

        movl    %esi, %ebx              # ebx = checksum: rotate by 5, add the word
        roll    $5, %ebx
        addl    %r8d, %ebx
        roll    $5, %ebx
        addl    %r9d, %ebx

        movl    CONTENT(%rbp), %r10d
        movl    $4, %edx                # edx = index of the word
fill:
        movl    %ecx, %eax              # xorshift32
        shll    $13, %eax
        xorl    %eax, %ecx
        movl    %ecx, %eax
        shrl    $17, %eax
        xorl    %eax, %ecx
        movl    %ecx, %eax
        shll    $5, %eax
        xorl    %eax, %ecx

        movl    %ecx, %eax
        cmpl    $1, %r10d
        jb      store                   # random: the word itself
        je      text
        testl   $15, %edx               # mostly zero: one word in 16
        jz      store
        xorl    %eax, %eax
        jmp     store
text:
        shrl    $26, %eax               # text: one of the fragments
        movl    WORDS(,%rax,4), %eax
store:
        movl    %eax, (%rdi,%rdx,4)
        roll    $5, %ebx
        addl    %eax, %ebx
        incl    %edx
        cmpl    $1024, %edx
        jne     fill

        movl    %esi, (%rdi)            # page number
        movq    %r8, 4(%rdi)            # number of this write
        movl    %ebx, 12(%rdi)          # checksum
        movq    %r8, COUNTER(%rbp)

        movl    %r8d, %eax              # where to write next
        movl    DATA_PAGES(%rbp), %edx
        cmpq    %rdx, %r8
        jb      set_cursor              # still filling: in order
        movl    $0, %eax
        je      set_cursor              # just filled: begin anew
        movl    CURSOR(%rbp), %eax
        addl    STRIDE(%rbp), %eax
        cmpl    WORKING_SET(%rbp), %eax
        jb      set_cursor
        subl    WORKING_SET(%rbp), %eax
set_cursor:
        movl    %eax, CURSOR(%rbp)
        decl    BATCH(%rbp)
        jnz     next_page
        jmp     next_batch

        .org    WORDS - 0x1000
        .ascii  "the of tand to tin ais athat it for was with be by aon tnot are "
        .ascii  "had at aor tfromthisbut pagememory. hostmigrates runningcopy of "
        .ascii  "timediskreadwrite thlinkrateslowfast andcodedatastate isflagnode"
        .ascii  "saveloadpassdirty pages wirebytes inmorethansomeeachwhenthendone"
