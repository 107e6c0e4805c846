package backstore

// A Queue is a list of requests through their Next, for the driver that has them: queueing allocates nothing. The zero value is empty.
type Queue struct {
	head, tail *Request
	n          int
}

// Push puts r, which is in no queue, at the end.
func (q *Queue) Push(r *Request) {
	r.Next = nil
	if q.head == nil {
		q.head = r
	} else {
		q.tail.Next = r
	}
	q.tail = r
	q.n++
}

// Pop takes the first out and returns it; nil: there is none.
func (q *Queue) Pop() *Request {
	r := q.head
	if r != nil {
		q.head, r.Next = r.Next, nil
		q.n--
	}
	return r
}

// Head returns the first, which stays; nil: there is none.
func (q *Queue) Head() *Request { return q.head }

// Len returns how many there are.
func (q *Queue) Len() int { return q.n }
